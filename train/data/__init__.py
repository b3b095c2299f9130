"""Rows of training and evaluation data, and the readers of published data sets."""
