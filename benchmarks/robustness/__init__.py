"""Long runs, fault injection and malformed input."""
