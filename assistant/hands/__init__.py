"""Hands that are found by a detector of their own, beside the language model."""
