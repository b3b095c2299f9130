"""Simulated episodes as arrays with random access, for training.

`egolive simulate OUT --fps 2` writes the folder. Beside each episode's video this puts its frames at the
model's size as one array on disk, made once, by several processes; a second run makes only what is
missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from egolive.streaming.errors import DataError
from egolive.streaming.sources.opening import open_source
from egolive.train.simulator.episode import Episode, FrameTruth
from egolive.train.simulator.write import load_episode

__all__ = ["Clip", "SimulatedData", "load_simulated"]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Clip:
    """One episode at the model's picture size."""

    episode: Episode
    truths: list[FrameTruth]
    path: Path
    """The array of its frames."""

    def frames(self) -> Pixels:
        """(F, height, width, 3) uint8, read from disk as it is used."""
        array: Pixels = np.load(self.path, mmap_mode="r")
        return array

    def shares(self, frame: int) -> dict[str, tuple[float, float, float, float]]:
        """Boxes of a frame as shares of the picture."""
        width, height = self.episode.width, self.episode.height
        return {
            name: (x1 / width, y1 / height, x2 / width, y2 / height)
            for name, (x1, y1, x2, y2) in self.truths[frame].boxes.items()
        }


@dataclass(frozen=True, slots=True)
class SimulatedData:
    """All episodes of a folder."""

    clips: tuple[Clip, ...]

    def split(self, share: float) -> tuple[SimulatedData, SimulatedData]:
        """The first episodes for training and the last `share` of them, at least one, for checking.

        Raises:
            DataError: nothing would be left to train on.
        """
        held = max(1, round(len(self.clips) * share))
        if held >= len(self.clips):
            raise DataError(
                f"{len(self.clips)} episodes are too few to train on and to check with: simulate more"
            )
        return SimulatedData(self.clips[:-held]), SimulatedData(self.clips[-held:])


def load_simulated(
    folder: Path, *, height: int, width: int, workers: int | None = None, episodes: int | None = None
) -> SimulatedData:
    """Read a folder that `egolive simulate` wrote, or its first `episodes`.

    Raises:
        DataError: there is no finished episode in it, or a video cannot be read.
    """
    videos = sorted(folder.glob("[0-9]*.mp4")) if folder.is_dir() else []
    videos = [video for video in videos if video.with_suffix(".json").exists()][:episodes]
    if not videos:
        raise DataError(
            f"{folder} holds no simulated episodes: "
            f"make some with `egolive simulate {folder} --episodes 100 --fps 2`"
        )
    arrays = [video.with_suffix(f".{width}x{height}.npy") for video in videos]
    missing = [(v, a, height, width) for v, a in zip(videos, arrays, strict=True) if not a.exists()]
    if missing:
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            done = pool.map(_shrink, missing, chunksize=4)
            for _ in track(
                done, description="reading episodes", total=len(missing), console=Console(stderr=True)
            ):
                continue
    return SimulatedData(tuple(_clips(videos, arrays)))


def _clips(videos: list[Path], arrays: list[Path]) -> Iterator[Clip]:
    for video, array in zip(videos, arrays, strict=True):
        episode, truths = load_episode(video)
        frames = np.load(array, mmap_mode="r").shape[0]
        if frames != len(truths):
            raise DataError(
                f"{video} has {frames} frames and {len(truths)} labels: delete it and simulate again"
            )
        yield Clip(episode, truths, array)


def _shrink(job: tuple[Path, Path, int, int]) -> None:
    """Decode one video to the model's size; written whole or not at all."""
    video, array, height, width = job
    with open_source(str(video)) as source:
        frames = [
            np.asarray(PIL.Image.fromarray(f.image).resize((width, height), PIL.Image.Resampling.BICUBIC))
            for f in source
        ]
    if not frames:
        raise DataError(f"{video} holds no picture: delete it and simulate again")
    partial = array.with_suffix(".part")
    with partial.open("wb") as file:
        np.save(file, np.stack(frames))
    partial.replace(array)
