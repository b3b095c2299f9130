"""Between the model's coordinate unit and pixels of the source frame, both ways, and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence

from egolive.assistant.schema.profiles import Unit

__all__ = ["Corners", "Size", "from_source", "resolve_unit", "to_source"]

Corners = tuple[float, float, float, float]
"""x1, y1, x2, y2."""
Size = tuple[int, int]
"""Width and height in pixels."""

_SLACK = 0.1
"""How far outside the picture, as a share of it, a coordinate is still taken for its edge."""


def resolve_unit(unit: Unit, boxes: Sequence[Corners]) -> Unit:
    """The unit that one answer is written in: `auto` is decided by the values of all its boxes together."""
    if unit != "auto":
        return unit
    return "norm1" if all(value <= 1 for box in boxes for value in box) else "norm1000"


def to_source(box: Corners, unit: Unit, *, source_size: Size, seen_size: Size) -> Corners | None:
    """A box in pixels of the source frame: corners ordered, clamped to the picture.

    Args:
        box: corners in the model's unit.
        unit: not `auto`, see `resolve_unit`.
        source_size: width and height of the source frame.
        seen_size: width and height at which the model saw it.

    Returns:
        The box, or None where it is empty, not finite or far outside the picture.
    """
    spans = _spans(unit, seen_size)
    shares = [value / span for value, span in zip(box, spans, strict=True)]
    if not all(math.isfinite(share) and -_SLACK <= share <= 1 + _SLACK for share in shares):
        return None
    xs = sorted(min(max(share, 0.0), 1.0) * source_size[0] for share in shares[0::2])
    ys = sorted(min(max(share, 0.0), 1.0) * source_size[1] for share in shares[1::2])
    if xs[0] >= xs[1] or ys[0] >= ys[1]:
        return None
    return (xs[0], ys[0], xs[1], ys[1])


def from_source(box: Corners, unit: Unit, *, source_size: Size, seen_size: Size) -> Corners:
    """A box in the model's unit, rounded as the model writes it and never emptied by the rounding.

    `auto` writes thousandths.

    Args:
        box: corners in pixels of the source frame.
        unit: the profile's.
        source_size: width and height of the source frame.
        seen_size: width and height at which the model saw it.
    """
    spans = _spans(unit, seen_size)
    steps = [1000 if unit == "norm1" else round(span) for span in spans]
    x1, y1, x2, y2 = (
        min(max(round(value / side * step), 0), step)
        for value, side, step in zip(box, (*source_size, *source_size), steps, strict=True)
    )
    x1, x2 = (x1, x2) if x1 < x2 else (min(x1, steps[0] - 1), min(x1, steps[0] - 1) + 1)
    y1, y2 = (y1, y2) if y1 < y2 else (min(y1, steps[1] - 1), min(y1, steps[1] - 1) + 1)
    if unit == "norm1":
        return (x1 / 1000, y1 / 1000, x2 / 1000, y2 / 1000)
    return (x1, y1, x2, y2)


def _spans(unit: Unit, seen_size: Size) -> Corners:
    """What the whole width and height count in the model's unit, for x1, y1, x2, y2."""
    if unit == "pixels":
        return (*seen_size, *seen_size)
    span = 1.0 if unit == "norm1" else 1000.0
    return (span, span, span, span)
