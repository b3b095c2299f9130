"""Inference above every backend: sessions, prefill, prefix cache, vision cache, speculative decoding."""
