"""Builds the prompt of a question, and the target text of a known answer for training.

Live use, training and evaluation all take their wording from here. Chat markup is Qwen2-VL's ChatML; pictures
stand in a prompt as `Vision` values, which the engine turns into visual tokens. The model's output is
parsed by `egolive.assistant.prompts.parsing`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.coordinates import Corners, Size, from_source
from egolive.assistant.schema.engine import Message, Prompt, Vision
from egolive.assistant.schema.profiles import Profile
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Box, Frame, Image, Interval, Window

__all__ = [
    "Message",
    "build_prompt",
    "chat_prompt",
    "conversation",
    "fit_size",
    "make_vision",
    "question_text",
    "render_answer",
    "uses_thinking",
    "vision_for",
    "vision_of",
]

_RANGES = {
    "norm1000": "whole numbers from 0 to 1000 relative to the image's width and height",
    "auto": "whole numbers from 0 to 1000 relative to the image's width and height",
    "norm1": "fractions from 0 to 1 of the image's width and height with three decimals",
    "pixels": "whole numbers of pixels",
}
_CONTROL = re.compile(
    r"<\|(?:im_start|im_end|endoftext|vision_start|vision_end|vision_pad|image_pad|video_pad)\|>"
)


def fit_size(height: int, width: int, min_pixels: int, max_pixels: int, factor: int = 28) -> tuple[int, int]:
    """Height and width at which Qwen2-VL sees a picture: multiples of `factor` within a pixel budget.

    The rule is Qwen2-VL's: round both sides; where that leaves the budget, scale the exact sides to it and
    round inwards. A very long picture can end above its budget, since no side goes below `factor`.

    Raises:
        ConfigError: a side or budget that cannot work, or sides more than 200 times apart.
    """
    if min(height, width) < 1:
        raise ConfigError(f"a picture of {width}x{height} pixels is empty")
    if not 1 <= min_pixels <= max_pixels:
        raise ConfigError(f"pixel budget from {min_pixels} to {max_pixels}: give the least, then the most")
    if max(height, width) > 200 * min(height, width):
        raise ConfigError(
            f"a picture of {width}x{height} pixels is too long: sides may be 200 times apart; crop it"
        )
    tall, wide = round(height / factor) * factor, round(width / factor) * factor
    if tall * wide > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        tall = max(factor, math.floor(height / shrink / factor) * factor)
        wide = max(factor, math.floor(width / shrink / factor) * factor)
    elif tall * wide < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        tall = math.ceil(height * grow / factor) * factor
        wide = math.ceil(width * grow / factor) * factor
    return tall, wide


def make_vision(
    images: Sequence[Image],
    profile: Profile,
    *,
    kind: Literal["image", "video"] = "image",
    size: tuple[int, int] | None = None,
    pixels: tuple[int, int] | None = None,
    keys: tuple[object, ...] = (),
) -> Vision:
    """Pictures at the size at which the model sees them.

    Args:
        images: one RGB picture, or the frames of a video, oldest first; an odd last frame is shown twice.
        profile: gives the size where nothing else does.
        kind: image or video.
        size: exact height and width, rounded to multiples of 28.
        pixels: least and most pixels of a picture, in place of the profile's.
        keys: one name for each slice, see `Vision`.

    Raises:
        ConfigError: no picture, several pictures for an image, or a size that cannot work.
    """
    if not images or (kind == "image" and len(images) != 1):
        raise ConfigError(
            f"a prompt's {kind} was given {len(images)} pictures; give at least one, an image exactly one"
        )
    height, width = images[0].shape[:2]
    if size is not None:
        height, width = (max(28, round(side / 28) * 28) for side in size)
    elif pixels is None and profile.picture is not None:
        height, width = profile.picture
    else:
        budget = profile.image_pixels if kind == "image" else profile.video_pixels
        height, width = fit_size(height, width, *(pixels or budget))
    frames = tuple(images)
    if kind == "video" and len(frames) % 2:
        frames += frames[-1:]
    return Vision(frames, height, width, kind, keys)


def vision_of(seen: Frame | Window, profile: Profile) -> Vision:
    """A frame as an image, or a window as a video, named so that its encoding can be reused."""
    if isinstance(seen, Frame):
        return make_vision([seen.image], profile, keys=(("frame", seen.index),))
    vision = make_vision(
        [frame.image for frame in seen.frames],
        profile,
        kind="video",
        keys=tuple(("slice", piece.segment, piece.index) for piece in seen.slices),
    )
    return replace(vision, successor=seen.successor)


def vision_for(question: Question, window: Window, profile: Profile) -> Vision:
    """What a question is asked of: boxes of the newest frame alone, everything else of the window."""
    return vision_of(window.newest if question.task == "ground" else window, profile)


def uses_thinking(profile: Profile, question: Question) -> bool:
    """Whether the answer holds a <think> and an <answer> block: asked for, and known to the model."""
    return question.think and profile.think_prompts is not None


def build_prompt(
    profile: Profile,
    question: Question,
    vision: Sequence[Vision],
    *,
    window: Window | Interval | None = None,
    paper_prompt: bool | None = None,
) -> Prompt:
    """One question about what is seen, ready for the model to answer.

    Args:
        profile: the checkpoint's.
        question: what is asked.
        vision: pictures, in reading order; questions of the same pictures share everything up to here.
        window: the stretch that is seen, for questions about time.
        paper_prompt: text before the pictures; the profile decides where None.

    Raises:
        ConfigError: a question about time and no window.
    """
    text_first = profile.paper_prompt if paper_prompt is None else paper_prompt
    text = question_text(profile, question, window)
    parts: tuple[str | Vision, ...] = (text, *vision) if text_first else (*vision, text)
    return chat_prompt(profile, [Message("user", parts)])


def chat_prompt(profile: Profile, messages: Sequence[Message]) -> Prompt:
    """A conversation of any number of turns and pictures, ready for the model to answer.

    The profile's system message stands first unless the conversation brings its own. Control tokens inside
    texts are removed: a text cannot end its own turn or stand for a picture.

    Raises:
        ConfigError: no message, or a last one that is not the user's.
    """
    if not messages or messages[-1].role != "user":
        raise ConfigError("a conversation ends with a message of the user; add the question")
    turns = _turns(profile, messages)
    *parts, text = _markup(turns)
    return Prompt((*parts, f"{text}<|im_start|>assistant\n"), turns)


def conversation(profile: Profile, messages: Sequence[Message]) -> Prompt:
    """A whole conversation, answers included, as training reads it; else as `chat_prompt`.

    Raises:
        ConfigError: no message, or a last one that is not the assistant's.
    """
    if not messages or messages[-1].role != "assistant":
        raise ConfigError("a conversation to learn from ends with a message of the assistant; add the answer")
    return Prompt(tuple(_markup(_turns(profile, messages))))


def _turns(profile: Profile, messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages without control tokens, behind the profile's system message where they bring none."""
    turns = list(messages)
    if turns[0].role != "system" and profile.system:
        turns.insert(0, Message("system", (profile.system,)))
    return tuple(
        Message(
            turn.role,
            tuple(_CONTROL.sub(" ", part) if isinstance(part, str) else part for part in turn.parts),
        )
        for turn in turns
    )


def _markup(turns: Sequence[Message]) -> list[str | Vision]:
    """Texts and pictures in turn, with chat markup; the last one is a text that ends the last message."""
    parts: list[str | Vision] = []
    text = ""
    for turn in turns:
        text += f"<|im_start|>{turn.role}\n"
        for part in turn.parts:
            if isinstance(part, str):
                text += part
            else:
                parts += [text + "<|vision_start|>", part]
                text = "<|vision_end|>"
        text += "<|im_end|>\n"
    return [*parts, text]


def render_answer(
    profile: Profile, answer: Answer, *, source_size: Size = (1, 1), seen_size: Size | None = None
) -> str:
    """The text that the model should write for a known answer: the training target, inverse of the parser.

    Reasoning is written only where the question asks for it and the profile knows how. Boxes and intervals
    are rounded to the profile's unit and decimals. Labels other than the question's phrase are written in the
    style `box_tokens` only.

    Args:
        profile: the checkpoint's.
        answer: boxes in source pixels, intervals in stream seconds (relative to `answer.window` in the text).
        source_size: width and height of the source frame, for boxes.
        seen_size: width and height at which the model sees it, for the unit `pixels`; else not needed.
    """
    body = answer.text
    if answer.absent:
        body = "none"
    elif answer.boxes:
        body = _boxes_text(profile, answer, source_size, seen_size or source_size)
    elif answer.intervals:
        body = ",".join(_interval_text(profile, stretch, answer.window) for stretch in answer.intervals)
    if not uses_thinking(profile, answer.question):
        return body
    return f"<think>{answer.reasoning}</think><answer>{body}</answer>"


def question_text(profile: Profile, question: Question, window: Window | Interval | None = None) -> str:
    """The question in the profile's words.

    Raises:
        ConfigError: a question about time and no window.
    """
    thinking = profile.think_prompts if question.think else None
    template: str = getattr(thinking or profile.prompts, question.task)
    if window is None and (question.task == "when" or "{duration}" in template):
        raise ConfigError("a question about time needs a video or a live window; a single picture was given")
    seen = window.interval if isinstance(window, Window) else window
    phrase = " ".join(question.phrase.split())
    if question.task in ("ground", "when"):
        # The templates bring their own article and full stop.
        phrase = re.sub(r"^the ", "", phrase, flags=re.IGNORECASE).rstrip(".") or phrase
    values = {
        "phrase": phrase,
        "duration": f"{seen.duration:.1f}" if seen else "",
        "range": _RANGES[profile.unit],
    }
    return re.sub(r"\{(phrase|duration|range)\}", lambda found: values[found[1]], template)


def _boxes_text(profile: Profile, answer: Answer, source_size: Size, seen_size: Size) -> str:
    def corners(box: Box) -> Corners:
        return from_source(
            (box.x1, box.y1, box.x2, box.y2), profile.unit, source_size=source_size, seen_size=seen_size
        )

    def number(value: float) -> str:
        return f"{value:.3f}" if profile.unit == "norm1" else f"{value:.0f}"

    if profile.answer_style == "list":
        lists = [f"[{', '.join(number(value) for value in corners(box))}]" for box in answer.boxes]
        return lists[0] if len(lists) == 1 else f"[{', '.join(lists)}]"
    phrase = answer.question.phrase
    # A label holds for every box up to the next one, so with one foreign label all are written.
    named = any(box.label not in ("", phrase) for box in answer.boxes)
    text = ""
    for box in answer.boxes:
        if named:
            text += f"<|object_ref_start|>{box.label or phrase}<|object_ref_end|>"
        x1, y1, x2, y2 = (number(value) for value in corners(box))
        text += f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"
    return text


def _interval_text(profile: Profile, stretch: Interval, window: Interval | None) -> str:
    relative = stretch.shift(-window.start) if window else stretch
    start, end = max(0.0, relative.start), max(0.0, relative.end)
    return f"({start:.{profile.time_decimals}f},{end:.{profile.time_decimals}f})"
