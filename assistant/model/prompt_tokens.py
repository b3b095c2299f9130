"""The layout of a prompt: its text and visual tokens in order, each with its M-RoPE position.

It also finds the longest common prefix of two layouts, for the prefix cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from egolive.assistant.model.positions import Part, rope_positions
from egolive.assistant.schema.engine import Prompt, Vision
from egolive.assistant.schema.tokenizer import Tokenizer
from egolive.streaming.frames import Image

__all__ = ["Layout", "SlicePiece", "lay_out", "slices_of"]

_CELL = 28
"""Pixels along the side of one visual token."""


@dataclass(frozen=True, slots=True)
class SlicePiece:
    """One slice or picture in its place in a prompt."""

    name: tuple[object, ...]
    """Equal for slices that encode alike."""
    kept: bool
    """Whether the name holds beyond this one prompt, so that the encoding may be found again under it."""
    frames: tuple[Image, ...]
    kind: Literal["image", "video"]
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Visual tokens that it makes."""
        return (self.height // _CELL) * (self.width // _CELL)


@dataclass(frozen=True, slots=True)
class Layout:
    """One prompt, laid out."""

    pieces: tuple[tuple[int, ...] | SlicePiece, ...]
    """Runs of token ids, and slices, in reading order."""
    positions: NDArray[np.int64]
    """(3, n)."""

    def __len__(self) -> int:
        return int(self.positions.shape[1])

    @property
    def next_position(self) -> int:
        """Where the first token of the answer stands, on all three axes."""
        return int(self.positions.max(initial=-1)) + 1

    @property
    def slices(self) -> tuple[SlicePiece, ...]:
        """All slices and pictures, in reading order."""
        return tuple(piece for piece in self.pieces if isinstance(piece, SlicePiece))

    @property
    def head(self) -> int:
        """Tokens up to the end of the last slice or picture: what other questions about them share."""
        after = 0
        for piece in reversed(self.pieces):
            if isinstance(piece, SlicePiece):
                break
            after += len(piece)
        return len(self) - after

    @property
    def kept(self) -> bool:
        """Whether the names of all its slices hold beyond this one prompt."""
        return all(piece.kept for piece in self.slices)

    def shared_with(self, other: Layout) -> int:
        """How many tokens the two have in common at their beginning: same content, same positions."""
        most = 0
        for mine, theirs in zip(self.pieces, other.pieces, strict=False):
            if isinstance(mine, SlicePiece) or isinstance(theirs, SlicePiece):
                if not (
                    isinstance(mine, SlicePiece)
                    and isinstance(theirs, SlicePiece)
                    and mine.name == theirs.name
                ):
                    break
                most += mine.tokens
            else:
                alike = _alike(mine, theirs)
                most += alike
                if alike < max(len(mine), len(theirs)):
                    break
        most = min(most, len(self), len(other))
        differ = (self.positions[:, :most] != other.positions[:, :most]).any(axis=0)
        return int(differ.argmax()) if differ.any() else most

    def cut(self, length: int) -> Layout:
        """The first `length` tokens, without the pictures' pixels: kept with a KV cache for prefix reuse.

        The last piece may go on beyond that; positions tell the length.
        """
        pieces: list[tuple[int, ...] | SlicePiece] = []
        at = 0
        for piece in self.pieces:
            if at >= length:
                break
            at += piece.tokens if isinstance(piece, SlicePiece) else len(piece)
            pieces.append(replace(piece, frames=()) if isinstance(piece, SlicePiece) else piece)
        return Layout(tuple(pieces), self.positions[:, :length])


def _alike(mine: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens two runs have in common at their beginning."""
    if mine == theirs:
        return len(mine)
    return next(
        (at for at, (one, other) in enumerate(zip(mine, theirs, strict=False)) if one != other),
        min(len(mine), len(theirs)),
    )


def lay_out(prompt: Prompt, tokenizer: Tokenizer) -> Layout:
    """Tokens, slices and positions of a prompt.

    Raises:
        EngineError: The text holds tokens that stand for pictures.
        ValueError: A `Vision` that cannot be, see `slices_of`.
    """
    pieces: list[tuple[int, ...] | SlicePiece] = []
    parts: list[Part] = []
    for part in prompt.parts:
        if isinstance(part, str):
            run = tuple(tokenizer.encode(part))
            pieces.append(run)
            parts.append(len(run))
        else:
            slices = slices_of(part)
            pieces += slices
            parts.append((len(slices), part.height // _CELL, part.width // _CELL))
    return Layout(tuple(pieces), rope_positions(parts))


def slices_of(vision: Vision) -> tuple[SlicePiece, ...]:
    """The slices of a video in order, or an image alone.

    Raises:
        ValueError: An image of several frames, a video of an odd number, sizes that are no multiples of
            28, or another number of keys than slices.
    """
    count = len(vision.frames)
    step = 1 if vision.kind == "image" else 2
    if count == 0 or count % step or (vision.kind == "image" and count != 1):
        raise ValueError(
            f"an image is one frame and a video an even number, got {count} for the {vision.kind}"
        )
    if min(vision.height, vision.width) < _CELL or vision.height % _CELL or vision.width % _CELL:
        raise ValueError(
            f"the model sees sizes that are multiples of {_CELL}, got {vision.width}x{vision.height}"
        )
    if vision.keys and len(vision.keys) != count // step:
        raise ValueError(f"{count // step} slices need as many keys, got {len(vision.keys)}")
    made = []
    for number, at in enumerate(range(0, count, step)):
        frames = vision.frames[at : at + step]
        # Frames without a key are told apart by identity, which holds as long as the prompt holds them.
        key = vision.keys[number] if vision.keys else tuple(map(id, frames))
        name = (bool(vision.keys), key, vision.kind, vision.height, vision.width)
        made.append(SlicePiece(name, bool(vision.keys), frames, vision.kind, vision.height, vision.width))
    return tuple(made)
