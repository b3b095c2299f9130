"""Sources of frames: files, streams, cameras, folders; pacing, looping and reconnection around them."""
