"""The ONNX Runtime backend, and what all backends of exported graphs share."""
