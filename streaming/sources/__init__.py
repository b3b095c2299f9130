"""Sources of frames: files, live sources; pacing and looping around them."""
