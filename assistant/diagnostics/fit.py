"""Which forms of a model fit a device, and how fast each will answer live: worked out, before it is loaded.

What is needed is the model's `config.json` (`egolive.assistant.model.model_sizes`), the device's free memory
and its measured speeds (`egolive.assistant.system.speed`). `egolive doctor --model`, and `egolive run` with a
model that is too large or too slow as it is, show the result; `egolive bench estimates` compares it with
what engines then take.

What an estimate is made of: each weight takes the time that a layer of its number format took per weight,
for a pass with as many rows; attention is two products at the rate of fp32 matrices; norms, activations and
scores move bytes at the rate of copies; a decode step has a fixed cost for each layer beside that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

from egolive.assistant.live.assistant import LIVE_QUESTIONS
from egolive.assistant.live.schedule import recurring_rules
from egolive.assistant.model.model_sizes import ModelSizes
from egolive.assistant.prompts.prompts import fit_size
from egolive.assistant.schema.profiles import Profile
from egolive.assistant.system.speed import FEW_ROWS, Speeds

__all__ = [
    "ASSUMED",
    "FORMS",
    "Costs",
    "Fit",
    "Form",
    "Memory",
    "Seen",
    "Work",
    "best_fit",
    "costs",
    "fits",
    "memory_of",
]

Pace = Literal["live", "words only", "too slow", "not known"]
"""Whether live answers come before their deadlines: all of them, those in words alone, or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way in which a model's weights are held and multiplied."""

    name: str
    """As `--dtype` or `egolive quantize --to` has it."""
    engine: Literal["torch", "onnx"]
    text: str
    """Format of the text layers, by its name in `Speeds`."""
    head: str
    """Of the last layer."""
    tower: str
    """Of the vision tower."""
    built: bool = True
    """Whether it is an engine folder that has to be made; else the checkpoint as it is."""


def _forms(cuda: bool) -> tuple[Form, ...]:
    other = "bf16" if cuda else "fp32"
    graph: tuple[Form, ...] = tuple(
        # ONNX Runtime has no product of matrices in bf16 on a CPU.
        Form(name=name, engine="onnx", text=text, head="int8-128", tower="bf16" if cuda else "int8-128")
        for name, text in (("int8", "int8"), ("awq-int4", "int4"), ("int4", "int4"))
    )
    plain = () if cuda else (_plain("fp32"),)
    return (
        *plain,
        _plain("bf16"),
        *graph,
        Form(name="nf4", engine="torch", text="nf4", head="fp32", tower=other),
    )


def _plain(name: str) -> Form:
    # The torch engine computes the last layer in fp32, whatever the weights are.
    return Form(name=name, engine="torch", text=name, head="fp32", tower=name, built=False)


FORMS: Mapping[str, Sequence[Form]] = {"cpu": _forms(False), "cuda": _forms(True)}
"""By kind of device, what loses least first."""

_BYTES = {
    "fp32": 4.0,
    "onnx-fp32": 4.0,
    "bf16": 2.0,
    # A scale of 4 bytes for 32, 64 or 128 numbers.
    "int8": 1 + 4 / 32,
    "int8-128": 1 + 4 / 128,
    "int4": 0.5 + 4 / 128,
    "nf4": 0.5 + 4 / 64,
}
"""Bytes of one weight, scales included, by format."""
_SPARE = 0.1
"""Share of the weights that loading a checkpoint wants to be free beside them."""
_PROGRAM_BYTES = 500_000_000
"""Python, torch and transformers themselves."""
_WORK_BYTES = 400_000_000
"""Pictures, activations and logits."""
_CACHE_TOKENS = 4096
"""Tokens in the KV caches of a stream: two windows, and pictures."""

_TAIL_TOKENS = 40
"""Of a question, behind what it is asked of."""
_SYSTEM_TOKENS = 15
_WORD_TOKENS, _BOX_TOKENS = 12, 24
"""Of an answer in a few words, and of a box."""
_LAYER_SECONDS = {"torch": 0.0004, "onnx": 0.0004}
"""Of a decode step beside its products, in each layer on a CPU: calls of small kernels."""
_STEP_SECONDS = 0.004
_LAUNCHES = 3e-6 * 16
"""The same on a GPU, in each layer: launches of its kernels."""

_QUESTIONS = recurring_rules(LIVE_QUESTIONS)
_WORDS = [question for question, rule in _QUESTIONS.items() if rule.sees == "window"]
_BOXES = [question for question, rule in _QUESTIONS.items() if rule.sees == "picture"]
_WORDS_DEADLINE = min(_QUESTIONS[question].deadline for question in _WORDS)
_BOXES_DEADLINE = min(_QUESTIONS[question].deadline for question in _BOXES)

ASSUMED = (
    f"a window is one hop of a live stream: a slice and a picture are encoded, {len(_WORDS)} answers of "
    f"{_WORD_TOKENS} tokens about the window and {len(_BOXES)} boxes of {_BOX_TOKENS} tokens about the "
    "picture; what can be reused is reused. The camera gives 1280x720 pixels"
)
"""What an estimate assumes, in words."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Sizes of what a model is shown, in patches; four of them are a token."""

    slice_patches: int
    picture_patches: int
    slices: int
    """In a full window."""

    @classmethod
    def by(cls, profile: Profile, *, built: bool) -> Seen:
        """What a profile shows of a camera with 1280x720 pixels.

        Args:
            profile: The model's.
            built: Whether an engine folder shows it, which has one size for slices and pictures.
        """
        if profile.picture is not None:
            frame = picture = profile.picture
        else:
            frame = fit_size(720, 1280, *profile.video_pixels)
            picture = frame if built else fit_size(720, 1280, *profile.image_pixels)
        return cls(_patches(frame), _patches(picture), profile.window_slices)


def _patches(size: tuple[int, int]) -> int:
    return size[0] * size[1] // 14**2


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that an engine needs."""

    anonymous: int
    """Its own: it cannot be dropped."""
    mapped: int
    """Of the weights' files: they can be read again, but an engine that has to do so is far slower."""

    @property
    def total(self) -> int:
        """Both; what has to be free for an engine to run at its speed."""
        return self.anonymous + self.mapped


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of an engine's work."""

    encode: float
    """A slice through the vision tower."""
    prefill: float
    """Each token of a prompt, in a window of usual length."""
    step: float
    """A decode step of one answer."""
    words: float
    """From a new slice to the answers in words."""
    boxes: float
    """From a new picture to its boxes."""

    @property
    def window(self) -> float:
        """All that is asked of one moment of the stream."""
        return self.words + self.boxes


@dataclass(frozen=True, slots=True)
class Fit:
    """One form of a model on one device."""

    form: Form
    device: str
    memory: Memory
    free: int
    """Bytes of the device's memory that are free."""
    costs: Costs | None
    """None where the speed of a format was not measured."""

    @property
    def lacks(self) -> int:
        """Bytes that are missing; 0 where it fits."""
        return max(0, self.memory.total - self.free)

    @property
    def pace(self) -> Pace:
        """Whether its answers come in time."""
        if self.costs is None:
            return "not known"
        if self.costs.window <= _BOXES_DEADLINE:
            return "live"
        return "words only" if self.costs.window <= _WORDS_DEADLINE else "too slow"


def memory_of(sizes: ModelSizes, form: Form, *, cuda: bool = False) -> Memory:
    """Memory that a form needs to answer live.

    Args:
        sizes: Of the model.
        form: How it is held.
        cuda: On a GPU, where nothing is mapped and torch itself takes none.
    """
    text, head = sizes.text_linear * _BYTES[form.text], sizes.head * _BYTES[form.head]
    tower = (sizes.tower + sizes.small) * _BYTES[form.tower]
    rows = "bf16" if cuda else "fp32"
    cache = sizes.layers * 2 * sizes.kv_width * _CACHE_TOKENS * _BYTES[rows]
    work = _WORK_BYTES + (0 if cuda else _PROGRAM_BYTES)
    if form.engine == "onnx":
        # One row of the table of embeddings is read for a token, from its file.
        parts, mapped = text + head + tower, 0.0 if cuda else sizes.head * 2 * 0.05
        return Memory(round(parts + cache + work), round(mapped))
    table = sizes.head * _BYTES[form.tower]
    # The last layer is computed from a copy in fp32, where it is not in fp32 already.
    copied = form.tower != "fp32"
    rest = tower + table + (0 if sizes.tied or not copied else table)
    if not copied and not sizes.tied:
        rest += head
    own = text + rest
    if not form.built:
        work = max(work, round(_SPARE * (own + (head if copied else 0)) - cache))
    if not cuda and not form.built and sizes.stored_bytes == _BYTES[form.text]:
        # As it is stored: the weights stay in their files' pages.
        return Memory(round((head if copied else 0) + cache + work), round(own))
    return Memory(round(own + (head if copied else 0) + cache + work), 0)


def costs(sizes: ModelSizes, form: Form, speeds: Speeds, seen: Seen) -> Costs | None:
    """Seconds of a form's work on a device; None where the speed of one of its formats is not known."""
    if not {form.text, form.head, form.tower} <= set(speeds.linear):
        return None
    work = Work(sizes, form, speeds)
    tokens, picture = seen.slice_patches // 4, seen.picture_patches // 4
    # A window grows from N to 2N slices, and a new slice is appended to both caches.
    window = round(1.5 * seen.slices) * tokens
    asked = len(_WORDS) * _TAIL_TOKENS
    words = (
        work.encode(seen.slice_patches)
        + work.prefill(2 * tokens + asked, window)
        + work.head(len(_WORDS))
        + _WORD_TOKENS * work.step(window, len(_WORDS))
    )
    read = _SYSTEM_TOKENS + picture + len(_BOXES) * _TAIL_TOKENS
    boxes = (
        work.encode(seen.picture_patches)
        + work.prefill(read, read)
        + work.head(len(_BOXES))
        + _BOX_TOKENS * work.step(picture, len(_BOXES))
    )
    return Costs(
        encode=work.encode(seen.slice_patches),
        prefill=work.prefill(tokens, window) / tokens,
        step=work.step(window, 1),
        words=words,
        boxes=boxes,
    )


class Work:
    """Seconds of single passes of one form on one device."""

    def __init__(self, sizes: ModelSizes, form: Form, speeds: Speeds) -> None:
        self._sizes, self._form, self._speeds = sizes, form, speeds
        plain = "onnx-fp32" if form.engine == "onnx" else "fp32"
        # Two operations a weight and row.
        self._rate = 2 / speeds.linear.get(plain, speeds.linear[form.tower]).row

    def encode(self, patches: int) -> float:
        """One slice or picture."""
        sizes, row = self._sizes, self._speeds.linear[self._form.tower].row
        linear = (sizes.tower_linear * patches + sizes.merger * patches // 4) * row
        between = patches * (8 * sizes.tower_width + 4 * sizes.tower_mlp_width)
        attention = self._attention(patches, patches, sizes.tower_width, sizes.tower_heads)
        return linear + sizes.tower_blocks * (attention + self._moved(between))

    def prefill(self, tokens: int, past: int) -> float:
        """Tokens that are read together, each of which sees `past` others."""
        sizes = self._sizes
        linear = sizes.text_linear * tokens * self._speeds.linear[self._form.text].row
        between = tokens * (12 * sizes.width + 6 * sizes.mlp_width)
        attention = self._attention(tokens, past, sizes.width, sizes.heads)
        return linear + sizes.layers * (attention + self._moved(between))

    def step(self, past: int, rows: int) -> float:
        """One token of each of some answers."""
        sizes, speed = self._sizes, self._speeds.linear[self._form.text]
        keys = rows * past * 2 * sizes.kv_width
        if self._speeds.device == "cpu":
            fixed = _STEP_SECONDS + sizes.layers * _LAYER_SECONDS[self._form.engine]
        else:
            fixed = sizes.layers * _LAUNCHES
        linear = sizes.text_linear * _between(speed.one, speed.few, rows)
        return linear + self.head(rows) + sizes.layers * self._moved(keys) + fixed

    def head(self, rows: int) -> float:
        """Logits of some rows."""
        speed = self._speeds.linear[self._form.head]
        return self._sizes.head * _between(speed.one, speed.few, rows)

    def _attention(self, tokens: int, seen: int, width: int, heads: int) -> float:
        """Of one layer: two products, and scores that are written, biased, normalised and read."""
        return 4 * tokens * seen * width / self._rate + self._moved(6 * tokens * seen * heads)

    def _moved(self, numbers: float) -> float:
        """Numbers of 4 bytes that are read or written between the products."""
        return 4 * numbers / self._speeds.copy


def _between(one: float, few: float, rows: int) -> float:
    """Seconds a weight of a pass of 1 to `FEW_ROWS` rows, or a little more."""
    return one + (few - one) * (rows - 1) / (FEW_ROWS - 1)


def fits(sizes: ModelSizes, profile: Profile, *, device: str, free: int, speeds: Speeds | None) -> list[Fit]:
    """All forms of a model on one device, what loses least first.

    Args:
        sizes: Of the model.
        profile: Of the model.
        device: "cpu" or "cuda:N".
        free: Bytes of its memory that are free.
        speeds: Of the device; None where they were not measured.
    """
    cuda = device != "cpu"
    return [
        Fit(
            form,
            device,
            memory_of(sizes, form, cuda=cuda),
            free,
            None if speeds is None else costs(sizes, form, speeds, Seen.by(profile, built=form.built)),
        )
        for form in FORMS["cuda" if cuda else "cpu"]
    ]


def best_fit(found: Iterable[Fit], *, without: Sequence[str] = ("awq-int4",)) -> Fit | None:
    """What to take: the first form that fits and is live, else the fastest one that fits; None if none fits.

    Args:
        found: What `fits` gives, of one device or of several; the first ones lose least.
        without: Forms that are not chosen; AWQ takes an hour or more to make.
    """
    usable = [fit for fit in found if not fit.lacks and fit.form.name not in without]
    live = [fit for fit in usable if fit.pace == "live"]
    if live:
        return live[0]
    known = [fit for fit in usable if fit.costs is not None]
    return min(known or usable, key=lambda fit: fit.costs.window if fit.costs else inf, default=None)
