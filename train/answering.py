"""Phase two of nano's SFT: the text part learns to answer over the visual tokens of the finished tower.

The tower stands still, so each picture and slice is encoded once, kept on disk, and read many times. A row
is one picture or one window with all its questions packed behind it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import Qwen2TokenizerFast, Qwen2VLForConditionalGeneration

from egolive.assistant.answers import Answer
from egolive.assistant.engine import Vision
from egolive.assistant.preprocess import Preprocessor
from egolive.assistant.profiles import NANO
from egolive.assistant.prompts import build_prompt, render_answer
from egolive.streaming.errors import DataError
from egolive.streaming.frames import Interval
from egolive.train.dense import dense_target
from egolive.train.loop import Tensors
from egolive.train.nano import COLUMNS, HEIGHT, ROWS, WIDTH
from egolive.train.packing import IGNORED, Row, collate, pack
from egolive.train.pointing import pointing_loss
from egolive.train.questions import Asked, absent_when, picture_questions, window_questions
from egolive.train.reading import ReadingHeads, reading_loss
from egolive.train.simdata import Clip, SimulatedData
from egolive.train.tower import CLASSES, STEPS, Rect, Tower, class_boxes

__all__ = ["AnswerBatches", "answer_check", "answer_loss", "encode_clips", "target_text"]

PICTURE = np.zeros((1, 1, 3), np.uint8)
"""Stands for pixels in a prompt whose visual tokens are at hand already."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Visual tokens of one episode, float16 on disk."""

    pictures: Path
    """(F, N, width): every frame as an image."""
    slices: Path
    """(F // 2, N, width): every pair of frames."""


@dataclass(frozen=True, slots=True)
class Made:
    """One row with what the auxiliary losses want to know of it."""

    row: Row
    visual: NDArray[np.float16]
    """(n, width) visual tokens."""
    rects: list[Rect | None]
    """The box of each question as shares of the picture, None where it is not there; empty for a window."""
    aims: Sequence[NDArray[np.bool_] | None]
    """For each question the visual tokens (n,) that hold its answer, none of them where it is "none"; None
    where the answer is not in one place."""
    boxes: dict[str, Rect] | None
    """Everything in the picture as shares of it; None for a window."""


def encode_clips(tower: Tower, data: SimulatedData, folder: Path, *, every: int = 2) -> None:
    """Write the visual tokens of all episodes to `folder`; what is there already is kept.

    Args:
        tower: the finished tower.
        data: episodes.
        folder: one file an episode and kind.
        every: encode each `every`-th frame as a picture, to save time; all slices are encoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = Preprocessor()
    device = next(tower.parameters()).device
    tower.eval()
    for clip in track(data.clips, description="encoding episodes"):
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


def unwritten(rect: Rect, digits: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What is still to be written of a box at each token of its answer.

    Args:
        rect: the box as shares of the picture.
        digits: (n,) True where the token to come is a digit; its coordinates are runs of them.

    Returns:
        (n, 4) the coordinates, NaN from the moment that their first digit is written: it gives them away.
    """
    starts = np.flatnonzero(digits & ~np.concatenate([[False], digits[:-1]]))
    written = np.arange(len(digits))[:, None] > starts[None]
    return np.where(written, np.nan, np.array(rect)).astype(np.float32)


class AnswerBatches:
    """Batch `index`: all of pictures or all of windows; the same for the same seed and number."""

    def __init__(
        self,
        data: SimulatedData,
        folder: Path,
        tokenizer: Qwen2TokenizerFast,
        *,
        batch: int,
        slices: int,
        window_share: float,
        seed: int,
        pictures_first: int = 0,
        every: int = 2,
    ) -> None:
        self.data = data
        self.folder = folder
        self.tokenizer = tokenizer
        self.batch = batch
        self.slices = slices
        self.window_share = window_share
        self.seed = seed
        self.digits = np.isin(
            np.arange(len(tokenizer)), tokenizer.convert_tokens_to_ids([str(digit) for digit in range(10)])
        )
        self.pictures_first = pictures_first
        self.every = every

    def __getitem__(self, index: int) -> Tensors:
        rng = random.Random(f"answers {self.seed} {index}")
        windows = rng.random() < self.window_share and index >= self.pictures_first
        make = self._window_row if windows else self._picture_row
        rows: list[Made] = []
        length = self.slices if rng.random() < 0.6 else rng.randint(2, self.slices)
        for _ in range(100 * self.batch):
            row = make(rng, length)
            if row is not None:
                rows.append(row)
            if len(rows) == self.batch:
                break
        else:
            raise DataError(
                f"hardly any episode has a window of {length} slices to ask about: simulate longer ones"
            )
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
                    word_boxes[place, words] = unwritten(rect, self.digits[made.row.labels[words]])
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

    def _picture_row(self, rng: random.Random, _: int) -> Made:
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
        return Made(row, np.array(stored[place]), rects, aims, class_boxes(clip, place * self.every))

    def _window_row(self, rng: random.Random, length: int) -> Made | None:
        clip = rng.choice(self.data.clips)
        stored = np.load(encoded(self.folder, clip).slices, mmap_mode="r")
        if len(stored) < length:
            return None
        first = rng.randint(0, len(stored) - length)
        start, end = clip.truths[2 * first].time, clip.truths[2 * (first + length) - 1].time
        asked = window_questions(clip.episode, start, end, rng, whens=2)
        if rng.random() < 0.3:
            asked.append(absent_when(clip.episode, start, end, STEPS, rng))
        if not asked:
            return None
        vision = Vision((PICTURE,) * (2 * length), HEIGHT, WIDTH, "video")
        visual = np.array(stored[first : first + length]).reshape(-1, stored.shape[-1])
        times = np.array([clip.truths[2 * (first + n) + 1].time for n in range(length)]).repeat(
            ROWS * COLUMNS
        )
        aims = [
            (times >= one.interval.start) & (times <= one.interval.end)
            if one.interval
            else None
            if one.text
            else np.zeros(len(times), bool)
            for one in asked
        ]
        return Made(self._row(asked, vision, clip, Interval(start, end)), visual, [], aims, None)

    def _row(self, asked: list[Asked], vision: Vision, clip: Clip, window: Interval | None) -> Row:
        size = (clip.episode.width, clip.episode.height)
        prompts = [build_prompt(NANO, one.question, [vision], window=window) for one in asked]
        return pack(prompts, [target_text(one, size, window) for one in asked], self.tokenizer)


def answer_logits(model: nn.Module, inputs: Tensors) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    """Logits (n, vocabulary) where a token counts, those tokens (n,), and all hidden states (B, L, width)."""
    assert isinstance(model, Qwen2VLForConditionalGeneration)
    language = model.model.language_model
    embeddings = language.embed_tokens(inputs["tokens"])
    visual = visual_tokens(model, inputs)
    embeddings = embeddings.masked_scatter(visual[..., None], inputs["visual"].to(embeddings.dtype))
    said = language(
        inputs_embeds=embeddings,
        position_ids=inputs["positions"],
        attention_mask=inputs["mask"],
        use_cache=False,
        output_hidden_states=True,
    )
    counted = inputs["labels"] != IGNORED
    logits = model.lm_head(said.last_hidden_state[counted]).float()
    return logits, inputs["labels"][counted], said.hidden_states


def visual_tokens(model: Qwen2VLForConditionalGeneration, inputs: Tensors) -> Tensor:
    """(B, L) bool: where a visual token stands."""
    tokens = inputs["tokens"]
    visual: Tensor = (tokens == model.config.image_token_id) | (tokens == model.config.video_token_id)
    return visual


def answer_loss(model: nn.Module, inputs: Tensors) -> dict[str, Tensor]:
    """Next-token cross-entropy over the answers' tokens, and what `pointing` and `reading` add to it."""
    assert isinstance(model, Qwen2VLForConditionalGeneration)
    logits, labels, hidden = answer_logits(model, inputs)
    parts = {"answers": F.cross_entropy(logits, labels)}
    visual = visual_tokens(model, inputs)
    if bool(inputs["aim"].any()):
        parts["pointing"] = pointing_loss(model, visual, inputs["aim"])
    heads = model.get_submodule("reading")
    assert isinstance(heads, ReadingHeads)
    return parts | reading_loss(heads, hidden, visual, inputs)


def answer_check(
    model: Qwen2VLForConditionalGeneration, batches: AnswerBatches
) -> Callable[[], dict[str, float]]:
    """A check on held-out episodes: loss and share of right tokens, on windows and on pictures."""

    def check() -> dict[str, float]:
        found: dict[str, list[float]] = {}
        device = model.device
        for number in range(16):
            batch = {name: value.to(device) for name, value in batches[number].items()}
            kind = "windows" if batch["visual"].shape[1] > (HEIGHT // 28) * (WIDTH // 28) else "pictures"
            logits, labels, _ = answer_logits(model, batch)
            found.setdefault(f"{kind}_loss", []).append(float(F.cross_entropy(logits, labels)))
            right = (logits.argmax(-1) == labels).float().mean()
            found.setdefault(f"{kind}_token_acc", []).append(float(right))
        return {name: sum(values) / len(values) for name, values in found.items()}

    return check
