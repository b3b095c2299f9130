"""Simulated episodes as rows: boxes of single frames; intent, next step and intervals of windows.

The questions are those of `egolive.train.data.questions`, drawn by the seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from egolive.streaming.errors import DataError
from egolive.train.data.questions import Asked, picture_questions, window_questions
from egolive.train.simulator.write import load_episode

__all__ = ["read_simulated"]


def read_simulated(
    folder: Path, *, pictures: int = 3, windows: int = 3, seconds: float = 8.0, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Rows about the episodes that `egolive simulate` wrote to a folder, as JSON objects.

    Args:
        folder: of the episodes; paths in the rows start from it.
        pictures: frames of an episode that are asked about.
        windows: stretches of an episode that are asked about.
        seconds: length of a stretch.
        seed: of what is asked.

    Raises:
        DataError: there is no finished episode in the folder, or one is damaged.
    """
    if folder.is_file():
        raise DataError(f"{folder} is a file: name the folder that `egolive simulate` wrote")
    videos = sorted(path for path in folder.glob("[0-9]*.mp4") if path.with_suffix(".json").exists())
    if not videos:
        raise DataError(
            f"{folder} holds no simulated episodes: "
            f"make some with `egolive simulate {folder} --episodes 100 --fps 2`"
        )
    for video in videos:
        episode, truths = load_episode(video)
        rng = random.Random(f"rows {seed} {video.name}")
        size = [episode.width, episode.height]
        for truth in rng.sample(truths, min(pictures, len(truths))):
            for asked in picture_questions(truth, rng):
                yield {
                    "path": video.name,
                    "time": truth.time,
                    "object": asked.question.phrase,
                    "box": list(asked.box) if asked.box else None,
                    "size": size,
                }
        last = max(0.0, truths[-1].time - seconds)
        for start in (rng.uniform(0, last) for _ in range(windows)):
            end = min(start + seconds, truths[-1].time)
            for asked in window_questions(episode, start, end, rng):
                yield {"video": video.name, "clip": [start, end], **_truth(asked)}


def _truth(asked: Asked) -> dict[str, Any]:
    if asked.question.task != "when":
        return {"task": asked.question.task, "text": asked.text}
    interval = asked.interval
    return {
        "question": asked.question.phrase,
        "start": interval.start if interval else None,
        "end": interval.end if interval else None,
    }
