"""From a checkpoint to an engine folder. Nothing is built here yet."""
