"""Simulator, training data, SFT, GRPO and evaluation."""
