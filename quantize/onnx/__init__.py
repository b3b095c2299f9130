"""Writers of ONNX graphs: decoder, vision tower, quantised weights, and their parity checks."""
