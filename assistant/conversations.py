"""Conversations in the form that Qwen's own tools take, read into prompts.

A conversation is a list of messages with `role` and `content`; content is a text, or a list of items of the
type text, image or video. Items carry their own settings: `min_pixels`, `max_pixels`, or `resized_height` and
`resized_width` for both; `fps` or `nframes`, `min_frames`, `max_frames`, `total_pixels`, `video_start` and
`video_end` for videos. Where pictures come from is the business of `media`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from egolive.assistant.answers import Question
from egolive.assistant.coordinates import Size
from egolive.assistant.engine import Vision
from egolive.assistant.jobs import Job
from egolive.assistant.media import Picture, Video, load_picture, load_video
from egolive.assistant.profiles import Profile
from egolive.assistant.prompts import Message, chat_prompt, make_vision
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Image

__all__ = ["Content", "Conversation", "read_conversation"]

Content = Mapping[str, object]
"""One item of a message."""
Conversation = Sequence[Mapping[str, object]]
"""Messages, the last one the user's."""

_SIZE_KEYS = frozenset(("min_pixels", "max_pixels", "resized_height", "resized_width"))
_VIDEO_KEYS = frozenset(
    ("fps", "sample_fps", "nframes", "min_frames", "max_frames", "total_pixels", "video_start", "video_end")
)


def read_conversation(
    conversation: Conversation,
    profile: Profile,
    *,
    think: bool = False,
) -> Job:
    """Load what a conversation shows and put its prompt together.

    Args:
        conversation: Messages, the last one the user's.
        profile: The checkpoint's.
        think: Ask for reasoning before the answer, where the model knows how.

    Raises:
        ConfigError: A message or item that cannot be understood, named by its place.
        SourceError: A picture or video cannot be read.
    """
    messages = []
    size: Size = (1, 1)
    question = ""
    for place, message in enumerate(conversation):
        where = f"message {place + 1}"
        role = message.get("role")
        if role not in ("system", "user", "assistant"):
            raise ConfigError(f"{where}: role is system, user or assistant, got {role!r}")
        parts: list[str | Vision] = []
        for item in _items(message.get("content"), where):
            kind = next((kind for kind in ("image", "image_url", "video", "text") if kind in item), None)
            if kind is None:
                raise ConfigError(
                    f"{where}: an item holds a text, an image or a video, got {', '.join(item)}"
                )
            if kind == "text":
                parts.append(str(item["text"]))
                continue
            vision = _vision(item, kind, profile, where)
            height, width = vision.frames[-1].shape[:2]
            size = (width, height)
            parts.append(vision)
        question = " ".join(part for part in parts if isinstance(part, str)).strip()
        if think and profile.think_prompts is not None and place == len(conversation) - 1:
            asking = profile.think_prompts.ask.replace("{phrase}", question)
            parts = [*(part for part in parts if not isinstance(part, str)), asking]
        messages.append(Message(role, tuple(parts)))
    if not question:
        raise ConfigError("the last message has no text; add the question")
    prompt = chat_prompt(profile, messages)
    return Job(question=Question("ask", question, think), prompt=prompt, source_size=size)


def _items(content: object, where: str) -> list[Content]:
    if isinstance(content, str):
        return [{"text": content}]
    if not isinstance(content, Sequence) or not all(isinstance(item, Mapping) for item in content):
        raise ConfigError(f"{where}: content is a text or a list of items")
    return list(content)


def _vision(item: Content, kind: str, profile: Profile, where: str) -> Vision:
    known = _SIZE_KEYS | {kind, "type"} | (_VIDEO_KEYS if kind == "video" else frozenset())
    if unknown := sorted(set(item) - known):
        raise ConfigError(f"{where}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
    height, width = _whole(item, "resized_height", where), _whole(item, "resized_width", where)
    if (height is None) != (width is None):
        raise ConfigError(f"{where}: an exact size needs resized_height and resized_width")
    size = (height, width) if height is not None and width is not None else None
    least, most = _whole(item, "min_pixels", where), _whole(item, "max_pixels", where)
    images: list[Image]
    if kind == "video":
        images, total = _frames(item, profile, where), _whole(item, "total_pixels", where)
        if total is not None:
            # Two frames make one slice, whose tokens are counted once.
            limit = max(least or profile.video_pixels[0], 2 * total // len(images))
            most = min(most or limit, limit)
    else:
        images = [load_picture(_picture(item[kind]))]
    limits = None
    if least is not None or most is not None:
        lowest, highest = profile.video_pixels if kind == "video" else profile.image_pixels
        # One limit alone moves the other out of its way.
        limits = (least or min(lowest, most or lowest), most or max(highest, least or highest))
    return make_vision(
        images, profile, kind="video" if kind == "video" else "image", size=size, pixels=limits
    )


def _frames(item: Content, profile: Profile, where: str) -> list[Image]:
    rate = _number(item, "sample_fps", where) or _number(item, "fps", where) or profile.fps
    limits = {key: _whole(item, key, where) for key in ("min_frames", "max_frames")}
    frames = load_video(
        cast(Video, item["video"]),
        fps=rate,
        nframes=_whole(item, "nframes", where),
        start=_number(item, "video_start", where),
        end=_number(item, "video_end", where),
        **{key: value for key, value in limits.items() if value is not None},
    )
    return [frame.image for frame in frames]


def _picture(value: object) -> Picture:
    """The picture of an item; OpenAI's form wraps its address once more."""
    if isinstance(value, Mapping):
        value = value.get("url")
    if value is None or isinstance(value, int | float):
        raise ConfigError("an image is a path, an address, base64, bytes, a Pillow image or an array")
    return str(value) if isinstance(value, Path) else cast(Picture, value)


def _whole(item: Content, key: str, where: str) -> int | None:
    value = _number(item, key, where)
    if value is not None and (value < 1 or value != int(value)):
        raise ConfigError(f"{where}: {key} is a whole number above 0, got {value:g}")
    return None if value is None else int(value)


def _number(item: Content, key: str, where: str) -> float | None:
    value = item.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ConfigError(f"{where}: {key} is a number, 0 or more, got {value!r}")
    return float(value)
