"""Ask about pictures and videos that are at hand: what EgoThinker's model card shows, in one call.

    egolive ask kitchen.jpg "What is on the table?"
    egolive ask clip.mp4 --task intent
    egolive ask kitchen.jpg "red mug" --task ground

In Python, any number of conversations is answered together:

    engine = load_engine("nano")
    content = [{"type": "image", "image": "kitchen.jpg"}, {"type": "text", "text": "What is on the table?"}]
    answers = ask([[{"role": "user", "content": content}]], engine)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from egolive.assistant.answers import Answer, Question, Task
from egolive.assistant.conversations import Conversation, read_conversation
from egolive.assistant.engine import Engine
from egolive.assistant.grammar import guides_of
from egolive.assistant.jobs import Sampling, answer_jobs
from egolive.assistant.media import Picture, Video, is_video, load_picture, load_video, window_of
from egolive.assistant.options import LookOptions, ModelOptions
from egolive.assistant.profiles import Profile
from egolive.assistant.session import Assistant
from egolive.assistant.sinks import answer_event
from egolive.assistant.view import in_words
from egolive.streaming.clock import MonotonicClock
from egolive.streaming.errors import DataError, UsageError
from egolive.streaming.frames import Frame

__all__ = ["ClipOptions", "ask", "ask_command", "ask_task", "conversation_about"]

_WORDLESS = ("intent", "next")
_FLAT = Parameter(name="*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipOptions:
    """Which frames of a video are seen."""

    frames: bool = False
    """Take all pictures that are given as the frames of one video."""
    fps: float | None = None
    """Frames a second that are taken from a video; the model's own rate without it."""
    nframes: int | None = None
    """Number of frames that are taken from a video instead."""
    start: float | None = None
    """Seconds into the video at which to begin."""
    end: float | None = None
    """Seconds into the video at which to end."""


_MODEL, _LOOK, _CLIP, _GREEDY = ModelOptions(), LookOptions(), ClipOptions(), Sampling()


def ask(
    conversations: Sequence[Conversation],
    engine: Engine,
    *,
    sampling: Sampling | None = None,
    profile: Profile | None = None,
    think: bool = False,
    grammar: bool = True,
) -> list[Answer]:
    """Answer conversations, all together; they may mix text, pictures and videos in any way.

    Args:
        conversations: Lists of messages as Qwen's tools take them, see `egolive.assistant.conversations`.
        engine: What answers.
        sampling: How tokens are chosen; greedy without it.
        profile: In place of the engine's own, for example with other picture sizes.
        think: Ask for reasoning before the answer, where the model knows how.
        grammar: Hold reasoning to its form and its bound.

    Returns:
        The answers, in order; boxes in pixels of the last picture of their conversation.

    Raises:
        ConfigError: A conversation that cannot be understood.
        SourceError: A picture or video cannot be read.
        EngineError: The engine failed, or a conversation is too long for it.
    """
    profile = profile or engine.profile
    several = len(conversations) > 1
    jobs = [
        read_conversation(turns, profile, think=think, place=f"conversation {number}, " if several else "")
        for number, turns in enumerate(conversations, start=1)
    ]
    guides = guides_of(engine, profile) if grammar else None
    with engine.session() as session:
        answers = answer_jobs(session, jobs, profile, sampling or Sampling(), MonotonicClock(), guides=guides)
        found = dict(answers)
    return [found[number] for number in range(len(jobs))]


def ask_task(
    question: Question,
    engine: Engine,
    *,
    picture: Picture | None = None,
    video: Video | None = None,
    clip: ClipOptions | None = None,
    sampling: Sampling | None = None,
    profile: Profile | None = None,
    paper_prompt: bool | None = None,
    grammar: bool = True,
) -> Answer:
    """Ask one of the assistant's own questions, in the checkpoint's own words.

    Args:
        question: Boxes are asked of the picture, or of the video's last frame; everything else of the video.
        engine: What answers.
        picture: One picture.
        video: A file, a folder, or frames; as much of it is seen as of a stream, evenly spread.
        clip: Which frames of the video are seen.
        sampling: How tokens are chosen; greedy without it.
        profile: In place of the engine's own, for example with other picture sizes.
        paper_prompt: Text before the pictures; the profile decides where None.
        grammar: Hold boxes, intervals and reasoning to their form.

    Raises:
        UsageError: The question needs a video, or anything to look at.
        SourceError: The picture or video cannot be read.
        EngineError: The engine failed.
    """
    window = frame = None
    if video is not None:
        # As many slices as the longest rolling window has.
        most = 2 * (2 * engine.profile.window_slices - 1)
        clip = clip or ClipOptions()
        frames = load_video(
            video,
            fps=clip.fps or engine.profile.fps,
            nframes=clip.nframes,
            max_frames=most,
            start=clip.start,
            end=clip.end,
        )
        window = window_of(frames)
    elif picture is not None:
        frame = Frame(load_picture(picture), 0.0, 0)
    if window is None and (frame is None or question.task != "ground"):
        raise UsageError(f"the task {question.task} needs a video; give a video file or a folder of frames")
    with Assistant(
        engine, profile, sampling=sampling, paper_prompt=paper_prompt, grammar=grammar
    ) as assistant:
        (answer,) = assistant.answer([question], window=window, picture=frame)
    return answer


def ask_command(
    *items: str,
    task: Task = "ask",
    model: Annotated[ModelOptions, _FLAT] = _MODEL,
    look: Annotated[LookOptions, _FLAT] = _LOOK,
    clip: Annotated[ClipOptions, _FLAT] = _CLIP,
    sampling: Annotated[Sampling, _FLAT] = _GREEDY,
    system: str | None = None,
    think: bool | None = None,
    paper_prompt: bool | None = None,
    grammar: bool = True,
    batch: Path | None = None,
    json_lines: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Ask one question of pictures or a video.

    Args:
        items: Pictures and videos (files, addresses, data URIs, folders of frames), then the question.
        task: ask (any question), intent, next, ground (the question names what to find), when (it names what
            happens).
        model: Which model answers.
        look: How large it sees pictures.
        clip: Which frames of a video it sees.
        sampling: How tokens are chosen.
        system: System message, in place of the model's own.
        think: Let the model reason before it answers, or not; the model's own habit without it.
        paper_prompt: Text before the pictures, as EgoThinker's last training stage had it.
        grammar: Hold boxes, intervals and reasoning to their form.
        batch: File of conversations, a JSON list of messages a line, all answered together.
        json_lines: Print each answer as one JSON object a line.
    """
    if batch is not None:
        if items or task != "ask":
            raise UsageError("--batch brings its own pictures and questions; leave out everything else")
        conversations: list[Conversation] = _read_batch(batch)
        media: list[str] = []
        words, video = "", None
    else:
        media, words = _media_and_words(items, task)
        video = _video_among(media, task, frames=clip.frames)
        conversations = [conversation_about(media, words, clip, system=system, text_first=bool(paper_prompt))]

    with closing(model.load()) as engine:
        profile = look.applied_to(engine.profile)
        reasons = profile.think if think is None else think
        if task == "ask":
            answers = ask(
                conversations, engine, sampling=sampling, profile=profile, think=reasons, grammar=grammar
            )
        else:
            answer = ask_task(
                Question(task, words, reasons),
                engine,
                picture=None if video is not None else media[0],
                video=video,
                clip=clip,
                sampling=sampling,
                profile=profile,
                paper_prompt=paper_prompt,
                grammar=grammar,
            )
            answers = [answer]
    for answer in answers:
        event = answer_event(answer, answer.time)
        line = json.dumps(event, ensure_ascii=False) if json_lines else in_words(answer)
        sys.stdout.write(line + "\n")


def _media_and_words(items: Sequence[str], task: Task) -> tuple[list[str], str]:
    """Part what to look at from what is asked.

    Raises:
        UsageError: One of the two is missing.
        SourceError: A picture cannot be read; told here, before a model is loaded.
    """
    media, words = (list(items), "") if task in _WORDLESS else (list(items[:-1]), "".join(items[-1:]))
    if not media:
        if words and (Path(words).exists() or "://" in words):
            raise UsageError(f"{words[:100]}: what is the question? egolive ask {words[:100]} QUESTION")
        raise UsageError("a question needs something to look at: egolive ask PICTURE_OR_VIDEO QUESTION")
    if task not in _WORDLESS and not words.strip():
        raise UsageError("the question is empty; write it behind the pictures")
    for item in media:
        if not is_video(item):
            load_picture(item)
    return media, words


def _video_among(media: Sequence[str], task: Task, *, frames: bool) -> Video | None:
    """The one video that is given, or None; checks that it is enough for the task."""
    video: Video | None = None
    if frames:
        video = list(media)
    elif len(media) == 1 and is_video(media[0]):
        video = media[0]
    if task in (*_WORDLESS, "when") and video is None:
        raise UsageError(
            f"the task {task} needs one video: a file, a folder of frames, or pictures and --frames"
        )
    if task == "ground" and video is None and len(media) != 1:
        raise UsageError("the task ground needs one picture or one video")
    return video


def conversation_about(
    media: Sequence[Picture | Video],
    words: str,
    clip: ClipOptions,
    *,
    system: str | None = None,
    text_first: bool = False,
) -> Conversation:
    """One question about pictures and videos, as messages.

    Args:
        media: What is seen, in reading order; a list of pictures is a video.
        words: The question.
        clip: Which frames of the videos are seen.
        system: System message, in place of the model's own.
        text_first: Text before the pictures, as EgoThinker's last training stage had it.
    """
    wanted = {"fps": clip.fps, "nframes": clip.nframes, "video_start": clip.start, "video_end": clip.end}
    sampled = {key: value for key, value in wanted.items() if value is not None}

    def shown(item: Picture | Video) -> dict[str, object]:
        video = is_video(item) if isinstance(item, str | Path) else isinstance(item, list | tuple)
        return {"video": item, **sampled} if video else {"image": item}

    content: list[dict[str, object]]
    content = [{"video": list(media), **sampled}] if clip.frames else [shown(item) for item in media]
    content.insert(0 if text_first else len(content), {"text": words})
    turns: list[dict[str, object]] = [{"role": "user", "content": content}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    return turns


def _read_batch(path: Path) -> list[Conversation]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read; check the path") from error
    conversations: list[Conversation] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            turns = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON; write one list of messages a line") from error
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise DataError(
                f"{path}, line {number}: not a list of messages; write one list of messages a line"
            )
        conversations.append(turns)
    if not conversations:
        raise DataError(f"{path}: holds no conversation; write one list of messages a line")
    return conversations
