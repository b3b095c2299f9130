"""Long runs and fault injection."""
