"""Rewards for GRPO: format of the completion, IoU of its box or interval. Pure functions.

A completion is read by the parser that reads answers everywhere, so training rewards what the evaluation
counts. An answer that cannot be read earns 0. What does not apply to a row is None, which TRL leaves out of
the sum, where a 0 would look like a failure. `trl_rewards` brings the three into TRL's calling form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from egolive.assistant.prompts.parsing import parse
from egolive.assistant.prompts.prompts import uses_thinking
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.coordinates import Size
from egolive.assistant.schema.profiles import Profile
from egolive.streaming.frames import Box, Interval

__all__ = [
    "Reward",
    "box_reward",
    "format_reward",
    "generalized_box_iou",
    "generalized_interval_iou",
    "interval_reward",
    "trl_rewards",
]

Reward = Callable[..., list[float | None]]
"""TRL's form: `reward(completions=..., **columns)`, one value for each completion."""

_THINK_THEN_ANSWER = re.compile(r"<think>(.*?)</think>\s*<answer>(.*?)</answer>", re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>")
_TURN_END = re.compile(r"(?:<\|im_end\|>|<\|endoftext\|>|\s)+\Z")
_NUMBER = r"\s*\d+(?:\.\d+)?\s*"
_POINT = rf"\({_NUMBER},{_NUMBER}\)"
_BODIES = {
    "list": re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]"),
    # The tokens round a box are special ones: whether they are in the text depends on how it was decoded.
    "box_tokens": re.compile(rf"(?:<\|box_start\|>)?{_POINT},{_POINT}(?:<\|box_end\|>)?"),
    "interval": re.compile(_POINT),
}


def format_reward(text: str, question: Question, profile: Profile) -> float:
    """1 where the completion has exactly the form that the prompt asks for, else 0.

    With reasoning, that is one think block and one answer block, neither of them blank, and nothing but white
    space round them. The answer, in its block or bare, is one box in the profile's style or one interval, or
    "none"; for other tasks it is any words without tags.

    Args:
        text: the completion.
        question: what was asked; says whether with reasoning.
        profile: the checkpoint's.
    """
    body = _TURN_END.sub("", text).strip()
    if uses_thinking(profile, question):
        blocks = _THINK_THEN_ANSWER.fullmatch(body)
        if blocks is None or not blocks[1].strip() or _TAG.search(blocks[1]):
            return 0.0
        body = blocks[2].strip()
    if not body or _TAG.search(body):
        return 0.0
    if question.task not in ("ground", "when") or body.casefold() == "none":
        return 1.0
    kind = "interval" if question.task == "when" else profile.answer_style
    return 1.0 if _BODIES[kind].fullmatch(body) else 0.0


def box_reward(
    text: str,
    truth: Box | None,
    profile: Profile,
    *,
    source_size: Size,
    seen_size: Size | None = None,
    shaped: float = 0.0,
) -> float:
    """IoU of the first box of the completion with the true one, in [0, 1].

    Where the thing is not there, "none" earns 1 and a box 0. Where it is, "none" and what cannot be read
    earn 0.

    Args:
        text: the completion.
        truth: source pixels; None where the thing is not in the picture.
        profile: the checkpoint's, for its coordinate unit.
        source_size: width and height of the source picture.
        seen_size: width and height at which the model saw it, for the unit `pixels`; the source's where None.
        shaped: share of the reward that is (1 + GIoU) / 2 in place of IoU. Plain IoU is 0 for all boxes that
            do not overlap the true one: a group of such answers has no advantage to learn from, and GIoU
            still says which of them is nearer. A perfect box earns 1 either way.
    """
    answer = parse(text, Question("ground", "it"), profile, source_size=source_size, seen_size=seen_size)
    if truth is None:
        return float(answer.absent)
    if not answer.boxes:
        return 0.0
    box = answer.boxes[0]
    return _mixed(box.iou(truth), generalized_box_iou(box, truth), shaped)


def interval_reward(
    text: str, truth: Interval | None, profile: Profile, *, duration: float, shaped: float = 0.0
) -> float:
    """IoU of the first interval of the completion with the true one, in [0, 1].

    "none", unreadable text and `shaped` count as in `box_reward`. A reversed interval is none that can be
    read.

    Args:
        text: the completion; its seconds count from the start of the clip.
        truth: seconds from the start of the clip; None where the event is not in the clip.
        profile: the checkpoint's.
        duration: length of the clip, seconds; an answer is cut to it.
        shaped: as in `box_reward`, with GIoU on the time line.
    """
    window = Interval(0.0, duration)
    answer = parse(text, Question("when", "it"), profile, source_size=(1, 1), window=window)
    if truth is None:
        return float(answer.absent)
    if not answer.intervals:
        return 0.0
    said = answer.intervals[0]
    return _mixed(said.iou(truth), generalized_interval_iou(said, truth), shaped)


def generalized_box_iou(first: Box, second: Box) -> float:
    """GIoU in [-1, 1]: IoU less the share of the common hull that neither box covers.

    After Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.

    Raises:
        ValueError: both boxes are empty and in one place, so that there is no hull.
    """
    iou = first.iou(second)
    hull = Box(
        min(first.x1, second.x1),
        min(first.y1, second.y1),
        max(first.x2, second.x2),
        max(first.y2, second.y2),
    ).area
    if hull <= 0:
        raise ValueError("two empty boxes have no generalized IoU")
    # union = areas / (1 + iou), since areas = union + intersection.
    union = (first.area + second.area) / (1 + iou)
    return iou - (hull - union) / hull


def generalized_interval_iou(first: Interval, second: Interval) -> float:
    """GIoU on the time line in [-1, 1]: the IoU, or less than 0 by the share of the hull that is between."""
    hull = max(first.end, second.end) - min(first.start, second.start)
    between = max(first.start, second.start) - min(first.end, second.end)
    return first.iou(second) - (between / hull if between > 0 else 0.0)


def trl_rewards(profile: Profile, *, shaped: float = 0.0) -> list[Reward]:
    """The format, box and interval reward as TRL calls them, under these names in its logs.

    They read these columns of the rows, one value each, and let all others be:

    - `task`: "ground", "when", another, of which the format alone counts, or None, to which none applies;
    - `think`: whether reasoning was asked for; no reasoning where the column is missing;
    - `box`: [x1, y1, x2, y2] in source pixels, None where the thing is absent ("ground");
    - `source_size`, and `seen_size` for the unit `pixels`: [width, height] ("ground");
    - `interval`: [start, end] in seconds of the clip, None where the event is absent; `duration` ("when").

    Args:
        profile: the checkpoint's.
        shaped: share of the shaped term, see `box_reward`.
    """

    def format(completions: Sequence[Any], *, task: Sequence[Any], **columns: Any) -> list[float | None]:
        thinks = columns.get("think", [False] * len(task))
        return [
            None if kind is None else format_reward(_text(one), Question(kind, "it", bool(think)), profile)
            for one, kind, think in zip(completions, task, thinks, strict=True)
        ]

    def box(completions: Sequence[Any], *, task: Sequence[str], **columns: Any) -> list[float | None]:
        seen_sizes = columns.get("seen_size", [None] * len(task))

        def one(number: int) -> float:
            corners, seen = columns["box"][number], seen_sizes[number]
            width, height = columns["source_size"][number]
            return box_reward(
                _text(completions[number]),
                Box(*corners) if corners else None,
                profile,
                source_size=(width, height),
                seen_size=(seen[0], seen[1]) if seen else None,
                shaped=shaped,
            )

        return [one(number) if kind == "ground" else None for number, kind in enumerate(task)]

    def interval(completions: Sequence[Any], *, task: Sequence[str], **columns: Any) -> list[float | None]:
        def one(number: int) -> float:
            ends = columns["interval"][number]
            return interval_reward(
                _text(completions[number]),
                Interval(*ends) if ends else None,
                profile,
                duration=columns["duration"][number],
                shaped=shaped,
            )

        return [one(number) if kind == "when" else None for number, kind in enumerate(task)]

    return [format, box, interval]


def _mixed(iou: float, generalized: float, shaped: float) -> float:
    return (1 - shaped) * iou + shaped * (1 + generalized) / 2


def _text(completion: Any) -> str:
    """The text of a completion: TRL gives text, or for conversations a list of messages."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
