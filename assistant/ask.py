"""Answers conversations about pictures and videos in the form of EgoThinker's model card.

Any number of conversations is answered together:

    engine = load_engine("nano")
    content = [{"type": "image", "image": "kitchen.jpg"}, {"type": "text", "text": "What is on the table?"}]
    answers = ask([[{"role": "user", "content": content}]], engine)

The command is in `egolive.assistant.cli.ask_command`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from egolive.assistant.generation.conversations import Conversation, read_conversation
from egolive.assistant.generation.domain import DomainJudge, check_question
from egolive.assistant.generation.generate import Sampling, generate_answers
from egolive.assistant.hands.hand_choice import HandChoice, draws_guesses
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.live.hands_beside import answer_by_detector, checked_by_detector
from egolive.assistant.model.media import Picture, Video, is_video, load_picture, load_video, window_of
from egolive.assistant.model.simulated_source import from_simulator
from egolive.assistant.prompts.grammar import matchers_of
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.engine import Engine
from egolive.assistant.schema.profiles import Profile
from egolive.streaming.clock import MonotonicClock
from egolive.streaming.errors import UsageError
from egolive.streaming.frames import Frame

__all__ = ["ClipOptions", "ask", "ask_task", "conversation_about"]


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
    source_fps: float | None = None
    """Frames a second of a video file without time stamps of its own, such as raw H.264."""


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
        conversations: Lists of messages as Qwen's tools take them, see
            `egolive.assistant.generation.conversations`.
        engine: What answers.
        sampling: How tokens are chosen; greedy without it.
        profile: In place of the engine's own, for example with other picture sizes.
        think: Ask for reasoning before the answer, where the model knows how.
        grammar: Hold reasoning to its form and its bound.

    Returns:
        The answers, in order; boxes in pixels of the last picture of their conversation.

    Raises:
        ConfigError: A conversation that cannot be understood, or asks what the model never learned to answer.
        SourceError: A picture or video cannot be read.
        EngineError: The engine failed, or a conversation is too long for it.
    """
    profile = profile or engine.profile
    several = len(conversations) > 1
    requests = [
        read_conversation(turns, profile, think=think, place=f"conversation {number}, " if several else "")
        for number, turns in enumerate(conversations, start=1)
    ]
    for request in requests:
        check_question(request.question.phrase, profile)
    matchers = matchers_of(engine, profile) if grammar else None
    with engine.session() as session:
        answers = generate_answers(
            session, requests, profile, sampling or Sampling(), MonotonicClock(), matchers=matchers
        )
        found = dict(answers)
    return [
        DomainJudge(profile, simulated=_simulated(turns)).judged(found[number])
        for number, turns in enumerate(conversations)
    ]


def _simulated(conversation: Conversation) -> bool:
    """Whether all that a conversation shows is known to be the simulator's."""
    shown = [
        item.get(kind)
        for message in conversation
        if isinstance(items := message.get("content"), list | tuple)
        for item in items
        if isinstance(item, Mapping)
        for kind in ("image", "video")
        if kind in item
    ]
    return bool(shown) and all(from_simulator(one) for one in shown)


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
    hands: HandChoice | None = None,
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
        hands: Who is asked about hands; the model where None.

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
            source_fps=clip.source_fps,
        )
        window = window_of(frames)
    elif picture is not None:
        frame = Frame(load_picture(picture), 0.0, 0)
    if window is None and (frame is None or question.task != "ground"):
        raise UsageError(f"the task {question.task} needs a video; give a video file or a folder of frames")
    seen = frame or (window.newest if window is not None else None)
    detector = None if hands is None or seen is None else hands.detector(stream=False)
    try:
        if detector is not None and seen is not None and hands is not None and not hands.questions:
            # The detector alone was wanted.
            return answer_by_detector(Answer(question, "", time=seen.time), seen.image, detector)
        with Assistant(
            engine,
            profile,
            sampling=sampling,
            paper_prompt=paper_prompt,
            grammar=grammar,
            simulated=from_simulator(video if video is not None else picture),
        ) as assistant:
            (answer,) = assistant.answer([question], window=window, picture=frame)
        if detector is None or seen is None:
            return answer
        guesses = draws_guesses(profile or engine.profile)
        return checked_by_detector(answer, seen.image, detector, guesses=guesses)
    finally:
        if detector is not None:
            detector.close()


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
        video = is_video(item) if isinstance(item, str | Path | bytes) else isinstance(item, list | tuple)
        return {"video": item, **sampled} if video else {"image": item}

    content: list[dict[str, object]]
    content = [{"video": list(media), **sampled}] if clip.frames else [shown(item) for item in media]
    content.insert(0 if text_first else len(content), {"text": words})
    turns: list[dict[str, object]] = [{"role": "user", "content": content}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    return turns
