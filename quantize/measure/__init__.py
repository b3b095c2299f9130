"""Speed, agreement and quality of engines, and their comparison."""
