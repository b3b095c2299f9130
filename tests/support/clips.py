"""Short videos that tests write."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from egolive.streaming.video_writer import VideoWriter


def write_clip(path: Path, *, seconds: float = 3.0, fps: int = 10) -> Path:
    """A video of even pictures, each a little brighter than the one before."""
    with VideoWriter(path) as writer:
        for number in range(round(seconds * fps)):
            writer.write(np.full((96, 128, 3), 40 + number, np.uint8), number / fps)
    return path
