"""The torch backend: decoder, KV cache, attention, CUDA graphs."""
