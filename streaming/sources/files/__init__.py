"""Recordings: video files and folders of pictures."""
