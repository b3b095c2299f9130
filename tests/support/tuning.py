"""What the tests of SFT and GRPO on checkpoints share: a small checkpoint, pictures, windows."""

from __future__ import annotations

import shutil
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import NANO, save_profile
from egolive.streaming.frames import Box, Interval
from egolive.train.common.trainer_recipe import GrpoRecipe, Rates, SimulatorShares
from egolive.train.finetune.samples import Sample
from egolive.train.finetune.window_processor import Seen

FPS = 4
HEIGHT, WIDTH = 56, 84
PROFILE = replace(NANO, name="small", picture=(HEIGHT, WIDTH))


def with_profile(checkpoint: Path, folder: Path) -> Path:
    """A copy of a checkpoint that brings the small profile."""
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    save_profile(PROFILE, folder)
    return folder


def vision(seed: int, frames: int = 1) -> Vision:
    """A picture of noise, or a window of it."""
    noise = np.random.default_rng(seed).integers(0, 256, (frames, HEIGHT, WIDTH, 3), np.uint8)
    return Vision(tuple(noise), HEIGHT, WIDTH, "image" if frames == 1 else "video")


def picture_sample(seed: int) -> Sample:
    """A question for a box."""
    seen = Seen(partial(vision, seed))
    return Sample(Question("ground", "left hand"), seen, (WIDTH, HEIGHT), box=Box(10, 10, 40, 40))


def window_sample(seed: int, slices: int = 2) -> Sample:
    """A question for an interval."""
    seen = Seen(partial(vision, seed, 2 * slices))
    question = Question("when", "open the jar")
    return Sample(question, seen, (WIDTH, HEIGHT), interval=Interval(0.5, 1.0), duration=2.0)


class Mixed:
    """Pictures and windows in turns."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Sample:
        return window_sample(number) if number % 2 else picture_sample(number)


def grpo_recipe(base: Path, out: Path, **settings: Any) -> GrpoRecipe:
    """Two prompts a step, four completions each."""
    values: dict[str, Any] = {
        "base": str(base),
        "out": out,
        "data": out,
        "simulator": SimulatorShares(episodes=2, boxes=0.5),
        "rates": Rates(text=1e-3),
        "steps": 1,
        "prompts": 2,
        "generations": 4,
        "per_device": 8,
        "max_tokens": 6,
        "think": False,
        "checkpointing": False,
        "save_every": 1,
        "log_every": 1,
    }
    return GrpoRecipe(**{**values, **settings})


def video(path: Path, seconds: int, offset: int = 0) -> None:
    """A video whose frames are as bright as their number says, four a second."""
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS), options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(seconds * FPS):
            image = np.full((48, 64, 3), offset + number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
