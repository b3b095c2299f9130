"""A run recorded without loss, and replayed with the same windows and drops."""
