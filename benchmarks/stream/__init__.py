"""Cost of answers on a stream: reuse, other ways to run the model, scaling."""
