"""Cost of engines, latency, overhead and energy."""
