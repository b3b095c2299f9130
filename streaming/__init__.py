"""From pixels to the windows that a model sees; knows nothing of models."""
