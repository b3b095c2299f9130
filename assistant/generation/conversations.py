"""Conversations in the form that Qwen's own tools take, read into prompts.

A conversation is a list of messages with `role` and `content`; content is a text, or a list of items of the
type text, image or video. A picture or video stands under the item's type (`image`, `video`), or as
transformers (`url`, `path`, `base64`) and OpenAI (`image_url`, `video_url`) write it. Items carry their own
settings: `min_pixels`, `max_pixels`, or `resized_height` and `resized_width` for both; `fps` or `nframes`,
`min_frames`, `max_frames`, `total_pixels`, `video_start`, `video_end`, `source_fps` for videos. A type or
key that is not known, or that would have no effect, is an error. A video is a path, an address, a data URI
(of a video file, or `data:video/jpeg;base64,` and JPEGs with commas between them), or a list of frames. All
are read by `egolive.assistant.model.media`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image as PillowImage

from egolive.assistant.generation.generate import GenerationRequest
from egolive.assistant.model.media import Picture, Video, given_frames, load_picture, load_video
from egolive.assistant.prompts.prompts import Message, chat_prompt, make_vision
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.coordinates import Size
from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import Profile
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Image
from egolive.streaming.paths import brief

__all__ = ["Content", "Conversation", "fill_placeholders", "read_conversation"]

Content = Mapping[str, object]
"""One item of a message."""
Conversation = Sequence[Mapping[str, object]]
"""Messages, the last one the user's."""

_SIZE_KEYS = frozenset(("min_pixels", "max_pixels", "resized_height", "resized_width"))
_VIDEO_KEYS = frozenset(
    (
        "fps",
        "sample_fps",
        "nframes",
        "min_frames",
        "max_frames",
        "total_pixels",
        "video_start",
        "video_end",
        "source_fps",
    )
)
_KINDS = {
    "text": "text",
    "image": "image",
    "image_url": "image",
    "video": "video",
    "video_url": "video",
}
"""Types of items, with what they are."""
_SOURCES = {
    "image": ("image", "image_url", "url", "path", "base64"),
    "video": ("video", "video_url", "url", "path"),
}
"""Keys under which an item may hold its picture or video."""
_EXCLUSIVE = (
    (("fps", "sample_fps"), ("nframes",)),
    (("fps",), ("sample_fps",)),
    (("nframes",), ("min_frames", "max_frames")),
    (("resized_height",), ("min_pixels", "max_pixels", "total_pixels")),
)
"""Settings of which the first would leave the second without effect."""
_CHOOSES_FRAMES = ("nframes", "min_frames", "max_frames", "video_start", "video_end", "source_fps")


def fill_placeholders(
    conversations: Sequence[Conversation],
    *,
    images: Sequence[Picture] = (),
    videos: Sequence[Video] = (),
) -> list[Conversation]:
    """Put pictures into items such as `{"type": "image"}`, as a Hugging Face processor does.

    Args:
        conversations: Lists of messages; they stay as they are.
        images: What the items without a picture show, in reading order over all conversations.
        videos: The same for videos.

    Returns:
        The conversations with every item filled.

    Raises:
        ConfigError: There are more or fewer of them than items that hold none, or an item without one has
            an unknown key, which may be a misspelt `image`.
    """
    waiting: dict[str, list[object]] = {"image": list(images), "video": list(videos)}
    wanted = {"image": 0, "video": 0}

    def filled(item: object, where: str) -> object:
        if not isinstance(item, Mapping) or item.get("type") not in wanted:
            return item
        kind = str(item["type"])
        if any(key in item for key in _SOURCES[kind]):
            return item
        _check_keys(item, kind, where)
        wanted[kind] += 1
        return {**item, kind: waiting[kind].pop(0)} if waiting[kind] else item

    def read(message: object, where: str) -> object:
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(message, Mapping) or isinstance(content, str) or not isinstance(content, Sequence):
            return message
        items = [filled(item, _within(where, at, content)) for at, item in enumerate(content, start=1)]
        return {**message, "content": items}

    found = []
    for number, turns in enumerate(conversations, start=1):
        place = f"conversation {number}, " if len(conversations) > 1 else ""
        messages = [read(message, f"{place}message {at}") for at, message in enumerate(turns, start=1)]
        found.append(cast(Conversation, messages))
    for kind, given in (("image", len(images)), ("video", len(videos))):
        if wanted[kind] != given:
            raise ConfigError(
                f"the messages have {wanted[kind]} {kind} items that hold nothing, and {given} {kind}s are "
                f"given beside them; give one for each"
            )
    return found


def read_conversation(
    conversation: Conversation,
    profile: Profile,
    *,
    think: bool = False,
    place: str = "",
) -> GenerationRequest:
    """Load what a conversation shows and put its prompt together.

    Args:
        conversation: Messages, the last one the user's.
        profile: The checkpoint's.
        think: Ask for reasoning before the answer, where the model knows how.
        place: What error messages call it, where there are several.

    Raises:
        ConfigError: A message or item that cannot be understood, named by its place.
        SourceError: A picture or video cannot be read.
    """
    messages = []
    size: Size = (1, 1)
    question = ""
    for number, message in enumerate(conversation, start=1):
        where = f"{place}message {number}"
        if not isinstance(message, Mapping):
            raise ConfigError(f"{where}: a message holds role and content, got {type(message).__name__}")
        if unknown := sorted(set(map(str, message)) - {"role", "content"}):
            raise ConfigError(f"{where}: unknown key {_told(unknown[0])}; a message holds role and content")
        role = message.get("role")
        if role not in ("system", "user", "assistant"):
            raise ConfigError(f"{where}: role is system, user or assistant, got {_told(role)}")
        parts: list[str | Vision] = []
        items = _items(message.get("content"), where)
        for at, item in enumerate(items, start=1):
            within = _within(where, at, items)
            kind = _kind(item, within)
            if kind == "text":
                parts.append(_text(item, within))
                continue
            vision = _vision(item, kind, profile, within)
            height, width = vision.frames[-1].shape[:2]
            size = (width, height)
            parts.append(vision)
        question = " ".join(part for part in parts if isinstance(part, str)).strip()
        if think and profile.think_prompts is not None and number == len(conversation):
            asking = profile.think_prompts.ask.replace("{phrase}", question)
            parts = [*(part for part in parts if not isinstance(part, str)), asking]
        messages.append(Message(role, tuple(parts)))
    if not question:
        raise ConfigError(f"{place}the last message has no text; add the question")
    prompt = chat_prompt(profile, messages)
    return GenerationRequest(question=Question("ask", question, think), prompt=prompt, source_size=size)


def _told(value: object) -> str:
    """A value as messages show it; what is long, or data, is cut."""
    return repr(brief(value)) if isinstance(value, str) else brief(repr(value))


def _within(where: str, at: int, items: Sequence[object]) -> str:
    """The place of one item of a message."""
    return where if len(items) == 1 else f"{where}, item {at}"


def _items(content: object, where: str) -> list[Content]:
    if isinstance(content, str):
        return [{"text": content}]
    if not isinstance(content, Sequence) or not all(isinstance(item, Mapping) for item in content):
        raise ConfigError(f"{where}: content is a text or a list of items")
    return list(content)


def _kind(item: Content, where: str) -> str:
    """Whether an item is a text, an image or a video: its type says so, or what it holds."""
    told = item.get("type")
    if told is None:
        told = next((kind for kind in _KINDS if kind in item), None)
        if told is None:
            raise ConfigError(
                f"{where}: an item holds a text, an image or a video, got {brief(', '.join(item))}"
            )
    if not isinstance(told, str) or told not in _KINDS:
        raise ConfigError(f"{where}: an item holds a text, an image or a video, got the type {_told(told)}")
    return _KINDS[told]


def _text(item: Content, where: str) -> str:
    if unknown := sorted(set(item) - {"type", "text"}):
        raise ConfigError(f"{where}: unknown setting {_told(unknown[0])}; a text has none")
    text = item.get("text")
    if not isinstance(text, str):
        raise ConfigError(f"{where}: a text is a string, got {_told(text)}")
    return text


def _check_keys(item: Content, kind: str, where: str) -> None:
    known = _SIZE_KEYS | {*_SOURCES[kind], "type"} | (_VIDEO_KEYS if kind == "video" else frozenset())
    if unknown := sorted(set(item) - known):
        raise ConfigError(
            f"{where}: unknown setting {_told(unknown[0])}; known are {', '.join(sorted(known))}"
        )


def _vision(item: Content, kind: str, profile: Profile, where: str) -> Vision:
    _check_keys(item, kind, where)
    _check_exclusive(item, where)
    source = _source(item, kind, where)
    height, width = _whole(item, "resized_height", where), _whole(item, "resized_width", where)
    if (height is None) != (width is None):
        raise ConfigError(f"{where}: an exact size needs resized_height and resized_width")
    size = (height, width) if height is not None and width is not None else None
    least, most = _whole(item, "min_pixels", where), _whole(item, "max_pixels", where)
    images: list[Image]
    if kind == "video":
        images, total = _frames(item, source, profile, where), _whole(item, "total_pixels", where)
        if total is not None:
            # Two frames make one slice, whose tokens are counted once.
            limit = max(least or profile.video_pixels[0], 2 * total // len(images))
            most = min(most or limit, limit)
    else:
        images = [load_picture(_picture(source, where))]
    limits = None
    if least is not None or most is not None:
        lowest, highest = profile.video_pixels if kind == "video" else profile.image_pixels
        # One limit alone moves the other out of its way.
        limits = (least or min(lowest, most or lowest), most or max(highest, least or highest))
    return make_vision(
        images, profile, kind="video" if kind == "video" else "image", size=size, pixels=limits
    )


def _check_exclusive(item: Content, where: str) -> None:
    given = {key for key, value in item.items() if value is not None}
    for first, second in _EXCLUSIVE:
        one, other = given.intersection(first), given.intersection(second)
        if one and other:
            raise ConfigError(f"{where}: give {min(one)} or {min(other)}, not both")


def _source(item: Content, kind: str, where: str) -> object:
    """What an item shows; OpenAI's form wraps its address once more."""
    held = [key for key in _SOURCES[kind] if item.get(key) is not None]
    if len(held) != 1:
        told = " and ".join(held) or "none"
        raise ConfigError(f"{where}: the type {kind} needs one picture or video under {kind!r}, got {told}")
    value = item[held[0]]
    if isinstance(value, Mapping):
        if unknown := sorted(set(map(str, value)) - {"url"}):
            raise ConfigError(f"{where}: unknown setting {_told(unknown[0])} in {held[0]}; it holds a url")
        value = value.get("url")
    return value


def _frames(item: Content, source: object, profile: Profile, where: str) -> list[Image]:
    video = _video(source, where)
    if given_frames(video) is not None and (idle := [key for key in _CHOOSES_FRAMES if key in item]):
        raise ConfigError(
            f"{where}: frames that are given are all seen, so {idle[0]} has no effect; leave it"
        )
    rate = _number(item, "sample_fps", where) or _number(item, "fps", where) or profile.fps
    limits = {key: _whole(item, key, where) for key in ("min_frames", "max_frames")}
    frames = load_video(
        video,
        fps=rate,
        nframes=_whole(item, "nframes", where),
        start=_number(item, "video_start", where),
        end=_number(item, "video_end", where),
        source_fps=_number(item, "source_fps", where),
        **{key: value for key, value in limits.items() if value is not None},
    )
    return [frame.image for frame in frames]


def _picture(value: object, where: str) -> Picture:
    if not isinstance(value, str | Path | bytes | PillowImage.Image | np.ndarray):
        raise ConfigError(
            f"{where}: an image is a path, an address, base64, bytes, a Pillow image or an array"
        )
    return str(value) if isinstance(value, Path) else value


def _video(value: object, where: str) -> Video:
    if isinstance(value, str | Path | bytes):
        return value
    if not isinstance(value, Sequence):
        raise ConfigError(f"{where}: a video is a path, an address, a data URI, bytes, or a list of pictures")
    return [_picture(item, where) for item in value]


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
        raise ConfigError(f"{where}: {key} is a number, 0 or more, got {_told(value)}")
    return float(value)
