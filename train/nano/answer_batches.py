"""Batches for phase two of nano's SFT: pictures and windows with all their questions and answers.

The tower is frozen, so each picture and slice is encoded once and its tokens are kept on disk. A row is one
picture or one window with all its questions packed behind it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from transformers import Qwen2TokenizerFast

from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.prompts.prompts import build_prompt, render_answer
from egolive.assistant.schema.answers import Answer
from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import NANO
from egolive.streaming.errors import DataError
from egolive.streaming.frames import Interval
from egolive.train.common.loop import Tensors
from egolive.train.data.questions import Asked, absent_when, picture_questions, window_questions
from egolive.train.data.simulated_data import Clip, SimulatedData
from egolive.train.nano.dense_loss import dense_target
from egolive.train.nano.nano_model import COLUMNS, HEIGHT, ROWS, WIDTH
from egolive.train.nano.packing import IGNORED, Row, collate, pack
from egolive.train.nano.tower_training import CLASSES, STEPS, Rect, Tower, class_boxes

__all__ = ["KINDS", "AnswerBatches", "encode_clips", "remaining_coordinates", "target_text"]

KINDS = ("pictures", "windows")
"""Kinds of rows in a batch; the names of its tensors are prefixed with the kind and a dot."""

PICTURE = np.zeros((1, 1, 3), np.uint8)
"""Placeholder for the pixels of a prompt whose visual tokens are computed already."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Visual tokens of one episode, float16 on disk."""

    pictures: Path
    """(F, N, width): every frame as an image."""
    slices: Path
    """(F // 2, N, width): every pair of frames."""


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """One packed row with the targets of the auxiliary losses."""

    row: Row
    visual: NDArray[np.float16]
    """(n, width) visual tokens."""
    rects: list[Rect | None]
    """The box of each question as shares of the picture, None where it is not there; empty for a window."""
    aims: Sequence[NDArray[np.bool_] | None]
    """For each question the visual tokens (n,) that hold its answer, all False where the answer is "none";
    None where the answer has no place in the picture."""
    boxes: dict[str, Rect] | None
    """Everything in the picture as shares of it; None for a window."""


def encode_clips(
    tower: Tower, data: SimulatedData, folder: Path, *, every: int = 2, quiet: bool = False
) -> None:
    """Write the visual tokens of all episodes to `folder`; what is there already is kept.

    Args:
        tower: the finished tower.
        data: episodes.
        folder: one file an episode and kind.
        every: encode each `every`-th frame as a picture, to save time; all slices are encoded.
        quiet: show no progress.
    """
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = Preprocessor()
    device = next(tower.parameters()).device
    tower.eval()
    for clip in track(
        data.clips, description="encoding episodes", disable=quiet, console=Console(stderr=True)
    ):
        files = encoded(folder, clip)
        if files.slices.exists():
            continue
        frames = [np.array(frame) for frame in clip.frames()]
        jobs = [([frame], files.pictures) for frame in frames[::every]]
        jobs += [(frames[i : i + 2], files.slices) for i in range(0, len(frames) - 1, 2)]
        patches = np.stack([preprocess.patches(job, HEIGHT, WIDTH)[0] for job, _ in jobs])
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16):
            parts = [tower.tokens(part.to(device)) for part in torch.split(torch.from_numpy(patches), 32)]
        tokens = torch.cat(parts).to(device="cpu", dtype=torch.float16).numpy()
        count = len(frames[::every])
        for path, values in ((files.pictures, tokens[:count]), (files.slices, tokens[count:])):
            partial = path.with_suffix(".part")
            with partial.open("wb") as file:
                np.save(file, values)
            partial.replace(path)


def encoded(folder: Path, clip: Clip) -> Encoded:
    """Where the visual tokens of an episode are."""
    name = clip.path.name.split(".")[0]
    return Encoded(folder / f"{name}.pictures.npy", folder / f"{name}.slices.npy")


def target_text(asked: Asked, clip_size: tuple[int, int], window: Interval | None) -> str:
    """What the model should write."""
    answer = Answer(
        asked.question,
        asked.text,
        boxes=(asked.box,) if asked.box else (),
        intervals=(asked.interval,) if asked.interval else (),
        absent=asked.absent,
        window=window,
    )
    return render_answer(NANO, answer, source_size=clip_size)


def remaining_coordinates(rect: Rect, digits: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The coordinates of a box that are not generated yet, at each token of its answer.

    Args:
        rect: the box as shares of the picture.
        digits: (n,) True where the token to come is a digit; its coordinates are runs of them.

    Returns:
        (n, 4) the coordinates; NaN from a coordinate's first digit on, which reveals it.
    """
    starts = np.flatnonzero(digits & ~np.concatenate([[False], digits[:-1]]))
    written = np.arange(len(digits))[:, None] > starts[None]
    return np.where(written, np.nan, np.array(rect)).astype(np.float32)


class AnswerBatches:
    """Batch `index`: rows of pictures and rows of windows; the same for the same seed and number.

    Every batch has both: when steps of pictures alternate with steps of windows, each degrades what the other
    has learned.
    """

    def __init__(
        self,
        data: SimulatedData,
        folder: Path,
        tokenizer: Qwen2TokenizerFast,
        *,
        pictures: int,
        windows: int,
        slices: int,
        seed: int,
        pictures_first: int = 0,
        next_step_share: float = 0.0,
        every: int = 2,
    ) -> None:
        """Take what to ask about.

        Args:
            data: episodes.
            folder: their visual tokens, as `encode_clips` writes them.
            tokenizer: nano's.
            pictures: rows of pictures in a batch.
            windows: rows of windows in a batch.
            slices: slices in a window, at most.
            seed: of what is drawn.
            pictures_first: batches before the first one with windows in it.
            next_step_share: share of the windows that are drawn again until the next step can be asked about.
            every: as `encode_clips` had it.
        """
        self.data = data
        self.folder = folder
        self.tokenizer = tokenizer
        self.counts = dict(zip(KINDS, (pictures, windows), strict=True))
        self.slices = slices
        self.seed = seed
        self.digits = np.isin(
            np.arange(len(tokenizer)), tokenizer.convert_tokens_to_ids([str(digit) for digit in range(10)])
        )
        self.pictures_first = pictures_first
        self.next_step_share = next_step_share
        self.every = every

    def __getitem__(self, index: int) -> Tensors:
        batch: Tensors = {}
        for kind, count in self.counts.items():
            if count == 0 or (kind == "windows" and index < self.pictures_first):
                continue
            rng = random.Random(f"{kind} {self.seed} {index}")
            rows = self._tensors(self._rows(kind, count, rng))
            batch |= {f"{kind}.{name}": value for name, value in rows.items()}
        return batch

    def _rows(self, kind: str, count: int, rng: random.Random) -> list[AnswerRow]:
        if kind == "pictures":
            return [self._picture_row(rng) for _ in range(count)]
        # Rows of one batch have windows of one length.
        length = self.slices if rng.random() < 0.6 else rng.randint(2, self.slices)
        rows: list[AnswerRow] = []
        for _ in range(100 * count):
            row = self._window_row(rng, length, next_step=len(rows) < self.next_step_share * count)
            if row is not None:
                rows.append(row)
            if len(rows) == count:
                return rows
        raise DataError(
            f"hardly any episode has a window of {length} slices to ask about: simulate longer ones"
        )

    def _tensors(self, rows: list[AnswerRow]) -> Tensors:
        pad = self.tokenizer.convert_tokens_to_ids("<|endoftext|>")
        batch = collate([made.row for made in rows], pad)
        visual = torch.from_numpy(np.stack([made.visual for made in rows]).astype(np.float32))
        word_there = np.full(batch.tokens.shape, -1, np.float32)
        word_boxes = np.full((*batch.tokens.shape, 4), np.nan, np.float32)
        for place, made in enumerate(rows):
            for number, rect in enumerate(made.rects, start=1):
                words = np.flatnonzero((made.row.tail == number) & (made.row.labels != IGNORED))
                word_there[place, words[0]] = float(rect is not None)
                if rect is not None:
                    word_boxes[place, words] = remaining_coordinates(
                        rect, self.digits[made.row.labels[words]]
                    )
        count = visual.shape[1]
        aim = np.zeros((*batch.tokens.shape, 1 + count), bool)
        for place, made in enumerate(rows):
            for number, cells in enumerate(made.aims, start=1):
                if cells is not None:
                    words = (made.row.tail == number) & (made.row.labels != IGNORED)
                    aim[place, np.flatnonzero(words)] = [not cells.any(), *cells]
        dense = [dense_target(made.boxes, CLASSES, ROWS, COLUMNS) for made in rows if made.boxes is not None]
        inside = np.stack([target[0] for target in dense]) if dense else np.zeros(0, np.float32)
        rects = np.stack([target[1] for target in dense]) if dense else np.zeros(0, np.float32)
        return {
            "tokens": batch.tokens,
            "positions": batch.positions,
            "labels": batch.labels,
            "mask": batch.mask,
            "visual": visual,
            "word_there": torch.from_numpy(word_there),
            "word_boxes": torch.from_numpy(word_boxes),
            "inside": torch.from_numpy(inside),
            "rects": torch.from_numpy(rects),
            "aim": torch.from_numpy(aim),
        }

    def _picture_row(self, rng: random.Random) -> AnswerRow:
        clip = rng.choice(self.data.clips)
        stored = np.load(encoded(self.folder, clip).pictures, mmap_mode="r")
        place = rng.randrange(len(stored))
        asked = picture_questions(clip.truths[place * self.every], rng)
        vision = Vision((PICTURE,), HEIGHT, WIDTH, "image")
        row = self._row(asked, vision, clip, None)
        wide, high = clip.episode.width, clip.episode.height
        rects = [
            (one.box.x1 / wide, one.box.y1 / high, one.box.x2 / wide, one.box.y2 / high) if one.box else None
            for one in asked
        ]
        aims = [dense_target({"": rect} if rect else {}, [""], ROWS, COLUMNS)[0][:, 0] > 0 for rect in rects]
        return AnswerRow(row, np.array(stored[place]), rects, aims, class_boxes(clip, place * self.every))

    def _window_row(self, rng: random.Random, length: int, *, next_step: bool) -> AnswerRow | None:
        clip = rng.choice(self.data.clips)
        stored = np.load(encoded(self.folder, clip).slices, mmap_mode="r")
        if len(stored) < length:
            return None
        first = rng.randint(0, len(stored) - length)
        start, end = clip.truths[2 * first].time, clip.truths[2 * (first + length) - 1].time
        asked = window_questions(clip.episode, start, end, rng, whens=1 if next_step else 2)
        if next_step and all(one.question.task != "next" for one in asked):
            return None
        if rng.random() < 0.3:
            asked.append(absent_when(clip.episode, start, end, STEPS, rng))
        if not asked:
            return None
        vision = Vision((PICTURE,) * (2 * length), HEIGHT, WIDTH, "video")
        visual = np.array(stored[first : first + length]).reshape(-1, stored.shape[-1])
        times = np.array([truth.time for truth in clip.truths[2 * first + 1 : 2 * (first + length) : 2]])
        times = times.repeat(ROWS * COLUMNS)
        aims = [
            (times >= one.interval.start) & (times <= one.interval.end)
            if one.interval
            else None
            if one.text
            else np.zeros(len(times), bool)
            for one in asked
        ]
        return AnswerRow(self._row(asked, vision, clip, Interval(start, end)), visual, [], aims, None)

    def _row(self, asked: list[Asked], vision: Vision, clip: Clip, window: Interval | None) -> Row:
        size = (clip.episode.width, clip.episode.height)
        prompts = [build_prompt(NANO, one.question, [vision], window=window) for one in asked]
        return pack(prompts, [target_text(one, size, window) for one in asked], self.tokenizer)
