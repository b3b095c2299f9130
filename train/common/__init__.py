"""Shared by all kinds of training: recipes, run folders, the training loop, plots, model cards."""
