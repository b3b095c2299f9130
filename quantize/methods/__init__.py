"""Quantisation methods: AWQ, bitsandbytes, and calibration data."""
