"""Weights of a checkpoint, read one layer at a time: forms in which they are stored, and a model over them."""
