"""Checkpoints, engine folders, and how pictures and prompts become model inputs."""
