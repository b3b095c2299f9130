"""Live sources: cameras, network streams and pipelines, and reconnection around them."""
