"""Rendering of simulated frames with their ground truth."""
