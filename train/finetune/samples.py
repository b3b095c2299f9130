"""The prompts of GRPO: questions with their pictures and true answers, from the simulator or from rows.

A sample is a pure function of its number, so that a resumed run gets the samples that it would have got.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL.Image
from datasets import Dataset

from egolive.assistant.prompts.prompts import make_vision, question_text
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.coordinates import Size
from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import Profile
from egolive.streaming.errors import ConfigError, DataError
from egolive.streaming.frames import Box, Interval
from egolive.train.common.trainer_recipe import SimulatorShares
from egolive.train.data.questions import HANDS, Asked, absent_when, picture_questions, window_questions
from egolive.train.data.row_files import RowMix
from egolive.train.data.row_media import FrameSampling, Shown, show
from egolive.train.data.rows import Row, RowError, Tally
from egolive.train.data.simulated_data import Clip, SimulatedData
from egolive.train.finetune.window_processor import Seen, blank
from egolive.train.nano.tower_training import STEPS

__all__ = [
    "Recent",
    "RowSamples",
    "Sample",
    "Samples",
    "SimulatedSamples",
    "only_questions",
    "trl_dataset",
]


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with its picture or window and its true answer."""

    question: Question
    seen: Seen
    source_size: Size
    """Width and height that the true box is in."""
    box: Box | None = None
    interval: Interval | None = None
    """Seconds from the start of the clip."""
    duration: float = 0.0
    """Seconds of the clip; 0 for a picture."""
    seen_size: Size | None = None
    """Width and height at which the model sees it, for profiles that count pixels."""
    broken: bool = False
    """Placeholder for a row that cannot be read: no reward applies to it, so nothing is learned from it."""


class Samples(Protocol):
    """A known number of samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Sample: ...


class SimulatedSamples:
    """Boxes and intervals of simulated episodes, all prompts of a step of one kind."""

    def __init__(
        self,
        data: SimulatedData,
        profile: Profile,
        *,
        count: int,
        prompts: int,
        shares: SimulatorShares,
        think: bool,
        seed: int,
    ) -> None:
        """Take what to ask about.

        Args:
            data: episodes.
            profile: of the model that is asked.
            count: samples in all.
            prompts: samples in a step.
            shares: what is asked, and how often.
            think: ask for reasoning, where the profile knows how.
            seed: of what is drawn.
        """
        self.data = data
        self.profile = profile
        self.count = count
        self.prompts = prompts
        self.shares = shares
        self.think = think and profile.think_prompts is not None
        self.seed = seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Sample:
        step = random.Random(f"step {self.seed} {number // self.prompts}")
        rng = random.Random(f"sample {self.seed} {number}")
        if step.random() < self.shares.boxes:
            return self._picture(rng)
        for _ in range(100):
            found = self._window(rng)
            if found is not None:
                return found
        raise DataError(
            f"hardly any episode has a window of {self.shares.slices} slices to ask about: "
            "simulate longer ones"
        )

    def _picture(self, rng: random.Random) -> Sample:
        clip = rng.choice(self.data.clips)
        frame, seen = self._shown(clip, rng)
        questions = picture_questions(clip.truths[frame], rng)
        absent, live = rng.random() < self.shares.absent, rng.random() < self.shares.live
        # Where a picture has none of the wanted sort, any other will do.
        questions = [one for one in questions if one.absent == absent] or questions
        questions = [one for one in questions if one.question.phrase.endswith(HANDS) == live] or questions
        asked = rng.choice(questions)
        return Sample(self._question(asked), seen, _size(clip), box=asked.box)

    def _shown(self, clip: Clip, rng: random.Random) -> tuple[int, Seen]:
        """The number of a frame, and how to load it."""
        frame = rng.randrange(len(clip.truths))
        return frame, Seen(partial(_vision, clip.path, frame, 1, self.profile))

    def _window(self, rng: random.Random) -> Sample | None:
        clip = rng.choice(self.data.clips)
        spare = len(clip.truths) // 2 - self.shares.slices
        if spare < 0:
            return None
        first = 2 * rng.randint(0, spare)
        start, end = clip.truths[first].time, clip.truths[first + 2 * self.shares.slices - 1].time
        asked = [
            one
            for one in window_questions(clip.episode, start, end, rng)
            if one.question.task == "when" and one.interval is not None
        ]
        if rng.random() < 0.2:
            asked = [absent_when(clip.episode, start, end, STEPS, rng)]
        if not asked:
            return None
        one = rng.choice(asked)
        seen = Seen(partial(_vision, clip.path, first, 2 * self.shares.slices, self.profile))
        interval = one.interval.shift(-start) if one.interval else None
        return Sample(self._question(one), seen, _size(clip), interval=interval, duration=end - start)

    def _question(self, asked: Asked) -> Question:
        return Question(asked.question.task, asked.question.phrase, self.think)


def only_questions(mix: RowMix, tally: Tally) -> RowMix:
    """The rows of a mix that ask for a box or an interval; the others are reported and counted."""
    kept = []
    for number in range(len(mix)):
        row = mix[number]
        if row.question is not None and row.question.task in ("ground", "when"):
            kept.append(number)
        else:
            tally.add(RowError(row.where, "no question for a box or an interval, which GRPO needs"))
    return RowMix(mix.files, mix.order[kept])


class RowSamples:
    """The rows of a mix in their order, repeated as often as needed.

    A row whose picture or video turns out to be broken is reported and counted, and no other row takes its
    place: its sample is a blank picture to which no reward applies.
    """

    def __init__(
        self,
        mix: RowMix,
        media: Path,
        profile: Profile,
        sampling: FrameSampling,
        *,
        count: int,
        think: bool,
        checked: Tally | None = None,
    ) -> None:
        """Take what to ask about.

        Args:
            mix: rows with questions.
            media: folder that their paths start from.
            profile: of the model that is asked.
            sampling: frames of a video.
            count: samples in all.
            think: ask for reasoning, where the profile knows how.
            checked: the rows that were left out before training.
        """
        self.mix = mix
        self.media = media
        self.profile = profile
        self.sampling = sampling
        self.count = count
        self.think = think and profile.think_prompts is not None
        self.tally = Tally()
        self.checked = checked or Tally()
        self.broken: set[str] = set()
        """Where the rows stand that turned out to be broken."""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Sample:
        row = self.mix[number % len(self.mix)]
        question = row.question
        assert question is not None, "only rows with a question are taken"
        try:
            shown = self._show(row)
        except RowError as error:
            if row.where not in self.broken:
                self.broken.add(row.where)
                self.tally.add(error)
            return Sample(question, Seen(blank), (1, 1), broken=True)
        return Sample(
            Question(question.task, question.phrase, self.think),
            Seen(partial(_first, row, self.media, self.profile, self.sampling), shown.visions[0]),
            shown.size,
            box=row.box,
            interval=row.interval,
            duration=shown.window.duration if shown.window else 0.0,
            seen_size=shown.seen_size,
        )

    def _show(self, row: Row) -> Shown:
        shown = show(row, self.media, self.profile, self.sampling)
        if row.question is not None and row.question.task == "when" and shown.window is None:
            raise RowError(row.where, "a question about time, and no video")
        return shown


def _first(row: Row, media: Path, profile: Profile, sampling: FrameSampling) -> Vision:
    return show(row, media, profile, sampling).visions[0]


class Recent:
    """Cache of the latest samples: TRL requests those of a step again in each of its passes."""

    def __init__(self, samples: Samples, keep: int) -> None:
        """Take the samples, and how many of them to keep."""
        self.samples = samples
        self.keep = keep
        self._kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Sample:
        found = self._kept.pop(number, None) or self.samples[number]
        self._kept[number] = found
        if len(self._kept) > self.keep:
            del self._kept[next(iter(self._kept))]
        return found


def trl_dataset(samples: Samples, profile: Profile, *, plain: bool = False) -> Dataset:
    """The samples in the columns that TRL and our rewards read, made as they are asked for.

    All copies of a sample in one batch share its pictures.

    Args:
        samples: in the order in which they are trained on.
        profile: of the model that is asked.
        plain: pictures of Pillow's, at the size at which the model sees them, as vLLM takes them.
    """
    numbers = Dataset.from_dict({"number": range(len(samples))})
    return numbers.with_transform(partial(_columns, samples=samples, profile=profile, plain=plain))


def _columns(
    batch: dict[str, list[int]], *, samples: Samples, profile: Profile, plain: bool
) -> dict[str, list[Any]]:
    found = {number: samples[number] for number in dict.fromkeys(batch["number"])}
    rows = [_row(found[number], profile, plain) for number in batch["number"]]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _row(sample: Sample, profile: Profile, plain: bool) -> dict[str, Any]:
    clip = Interval(0.0, sample.duration) if sample.duration else None
    text = {"type": "text", "text": question_text(profile, sample.question, clip)}
    picture = {"type": "image", "image": _plain(sample.seen) if plain else sample.seen}
    content = [text, picture] if profile.paper_prompt else [picture, text]
    box, interval = sample.box, sample.interval
    return {
        "prompt": [{"role": "user", "content": content}],
        "task": None if sample.broken else sample.question.task,
        "think": sample.question.think,
        "box": [box.x1, box.y1, box.x2, box.y2] if box else None,
        "source_size": list(sample.source_size),
        "seen_size": list(sample.seen_size) if sample.seen_size else None,
        "interval": [interval.start, interval.end] if interval else None,
        "duration": sample.duration,
    }


def _plain(seen: Seen) -> PIL.Image.Image:
    vision = seen.vision()
    if vision.kind != "image":
        raise ConfigError("vLLM takes no windows from TRL: leave vllm out, or train on pictures alone")
    picture = PIL.Image.fromarray(vision.frames[0])
    return picture.resize((vision.width, vision.height), PIL.Image.Resampling.BICUBIC)


def _vision(path: Path, first: int, count: int, profile: Profile) -> Vision:
    frames: Sequence[Any] = [np.array(frame) for frame in np.load(path, mmap_mode="r")[first : first + count]]
    return make_vision(frames, profile, kind="image" if count == 1 else "video")


def _size(clip: Clip) -> Size:
    return clip.episode.width, clip.episode.height
