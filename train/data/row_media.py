"""The pictures of a row at the model's size, and its conversation as the model reads and writes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egolive.assistant.model.media import load_picture, load_video
from egolive.assistant.prompts.prompts import Message, make_vision, question_text, render_answer
from egolive.assistant.schema.answers import Answer
from egolive.assistant.schema.coordinates import Size
from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import Profile
from egolive.streaming.errors import ConfigError, SourceError
from egolive.streaming.frames import Frame, Interval
from egolive.train.data.rows import Row, RowError

__all__ = ["FrameSampling", "Shown", "messages_of", "show"]

_PLACE = re.compile("<(image|video)>")
_CHUNK_SECONDS = 15
_EARLY = 0.02
"""Seconds before the named time at which a frame still is the one that is meant."""


@dataclass(frozen=True, slots=True)
class FrameSampling:
    """How many frames of a video are shown; the defaults are EgoThinker's."""

    fps: float = 1.0
    min_frames: int = 4
    max_frames: int = 32


@dataclass(frozen=True, slots=True)
class Shown:
    """What a row shows."""

    visions: tuple[Vision, ...]
    """Pictures first, then videos, as the row lists them."""
    size: Size
    """Width and height that the row's box is in; (1, 1) where nothing is shown."""
    window: Interval | None = None
    """From 0 to the length of the video, seconds; None for pictures."""

    @property
    def seen_size(self) -> Size:
        """Width and height at which the model sees the first picture."""
        return (self.visions[0].width, self.visions[0].height) if self.visions else (1, 1)


def show(row: Row, media: Path, profile: Profile, sampling: FrameSampling | None = None) -> Shown:
    """Read what a row shows.

    Args:
        row: what to show.
        media: folder that its paths start from.
        profile: says how large the model sees pictures.
        sampling: frames of a video.

    Raises:
        RowError: a file is missing, or cannot be read there.
    """
    sampling = sampling or FrameSampling()
    visions = []
    size: Size | None = row.size
    window = None
    try:
        for name in row.images:
            image = load_picture(media / name)
            size = size or (image.shape[1], image.shape[0])
            visions.append(make_vision([image], profile))
        for name in row.videos:
            if row.time is not None:
                start = max(0.0, row.time - _EARLY)
                frames = load_video(media / name, start=start, nframes=1, min_frames=1)
            else:
                frames = _frames(row, media / name, sampling)
            size = size or (frames[0].width, frames[0].height)
            images = [frame.image for frame in frames]
            if row.time is not None:
                visions.append(make_vision(images, profile))
                continue
            visions.append(make_vision(images, profile, kind="video"))
            length = row.stretch.duration if row.stretch else frames[-1].time
            window = window or Interval(0.0, length)
    except (SourceError, ConfigError) as error:
        raise RowError(row.where, "its picture or video cannot be read", str(error)) from error
    return Shown(tuple(visions), size or (1, 1), window)


def messages_of(row: Row, shown: Shown, profile: Profile) -> list[Message]:
    """The conversation of a row, the true answer as its last turn, in the profile's words where it has any.

    Raises:
        RowError: a question about time, and no video.
    """
    if row.turns:
        return _conversation(row, shown.visions)
    question = row.question
    assert question is not None, "a row has turns or a question"
    if question.task == "when" and shown.window is None:
        raise RowError(row.where, "a question about time, and no video")
    text = question_text(profile, question, shown.window)
    parts: tuple[str | Vision, ...] = (*shown.visions, text)
    if profile.paper_prompt:
        parts = (text, *shown.visions)
    truth = Answer(
        question,
        row.text,
        boxes=(row.box,) if row.box else (),
        intervals=(row.interval,) if row.interval else (),
        absent=question.task in ("ground", "when") and row.box is None and row.interval is None,
        window=shown.window,
    )
    answer = render_answer(profile, truth, source_size=shown.size, seen_size=shown.seen_size)
    return [Message("user", parts), Message("assistant", (answer,))]


def _conversation(row: Row, visions: Sequence[Vision]) -> list[Message]:
    """Turns with what is shown in place of its marks; in front of the first question where there are none."""
    waiting = {
        "image": [vision for vision in visions if vision.kind == "image"],
        "video": [vision for vision in visions if vision.kind == "video"],
    }
    messages = []
    for turn in row.turns:
        parts: list[str | Vision] = []
        # Every second piece is the name of a mark.
        for number, piece in enumerate(_PLACE.split(turn.text)):
            if number % 2:
                parts.append(waiting[piece].pop(0))
            elif piece:
                parts.append(piece)
        messages.append(Message(turn.role, tuple(parts)))
    left: tuple[str | Vision, ...] = (*waiting["image"], *waiting["video"])
    if left:
        first = next(number for number, message in enumerate(messages) if message.role == "user")
        messages[first] = Message("user", (*left, *messages[first].parts))
    return messages


def _frames(row: Row, path: Path, sampling: FrameSampling) -> list[Frame]:
    start, end = (row.stretch.start, row.stretch.end) if row.stretch else (None, None)
    if not row.chunked:
        return load_video(
            path,
            fps=sampling.fps,
            min_frames=sampling.min_frames,
            max_frames=sampling.max_frames,
            start=start,
            end=end,
        )
    stretch = row.stretch or Interval(0.0, _chunked_seconds(path))
    wanted = min(max(round(stretch.duration * sampling.fps), sampling.min_frames), sampling.max_frames)
    times = [stretch.start + stretch.duration * (place + 0.5) / wanted for place in range(wanted)]
    frames = []
    for index, time in enumerate(times):
        chunk, rest = divmod(time, _CHUNK_SECONDS)
        frames.append(Frame(_in_chunk(path / f"{int(chunk):04d}.mp4", rest).image, time, index))
    return frames


def _in_chunk(path: Path, time: float) -> Frame:
    """The first picture from a time on, or the last one of all: behind it the next chunk has not begun."""
    try:
        return load_video(path, start=time, nframes=1, min_frames=1)[0]
    except SourceError:
        if time < _CHUNK_SECONDS - 1:
            raise
        return load_video(path, start=_CHUNK_SECONDS - 1, nframes=2)[-1]


def _chunked_seconds(path: Path) -> float:
    chunks = sorted(path.glob("*.mp4"))
    if not chunks:
        raise SourceError(f"{path}: holds no chunk; give a folder of 0000.mp4, 0001.mp4 and so on")
    # The last one is shorter than the others.
    return _CHUNK_SECONDS * (len(chunks) - 1) + load_video(chunks[-1], nframes=2)[-1].time
