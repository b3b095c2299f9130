"""All benchmarks in one run, and the report."""
