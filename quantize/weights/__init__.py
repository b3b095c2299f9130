"""Weights of a checkpoint, read one layer at a time: stored forms, and a model over them."""
