"""Benchmarks: `egolive bench` measures cost, quality and robustness, with tables, JSON lines and plots."""
