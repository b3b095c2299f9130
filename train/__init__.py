"""Simulator, data, SFT, and evaluation: from nothing to a checkpoint with measured quality."""
