"""`egolive ask`: one question of pictures or a video, or a file of conversations.

egolive ask kitchen.jpg "What is on the table?"
egolive ask clip.mp4 --task intent
egolive ask kitchen.jpg "red mug" --task ground
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from egolive.assistant.ask import ClipOptions, ask, ask_task, conversation_about
from egolive.assistant.cli.options import ASKED, GIVEN, MODEL, OUTPUT, HandOptions, ModelOptions
from egolive.assistant.cli.printing import json_text, note, printable, readable
from egolive.assistant.generation.conversations import Conversation
from egolive.assistant.generation.domain import advice, check_question
from egolive.assistant.generation.generate import Sampling
from egolive.assistant.hands.hand_choice import HandChoice
from egolive.assistant.live.answer_text import in_words
from egolive.assistant.live.sinks import answer_event
from egolive.assistant.model.media import Video, check_media, is_video
from egolive.assistant.schema.answers import Question, Task
from egolive.assistant.schema.profiles import PictureSize
from egolive.streaming.errors import DataError, EngineError, UsageError
from egolive.streaming.json_files import json_value
from egolive.streaming.paths import brief, existing_path
from egolive.streaming.sources.files.media_kind import kind_of

__all__ = ["ask_command"]

_WORDLESS = ("intent", "next")
_ASK = Parameter(group=ASKED)
_MOST_LINE = 256 * 1024**2
"""Bytes of a conversation in a batch, whose pictures may stand in it as base64."""
_MODEL, _LOOK, _CLIP, _GREEDY = ModelOptions(), PictureSize(), ClipOptions(), Sampling()
_HANDS = HandOptions()


def ask_command(
    *items: Annotated[str, Parameter(group=GIVEN)],
    task: Annotated[Task, _ASK] = "ask",
    model: Annotated[ModelOptions, Parameter(name="*", group=MODEL)] = _MODEL,
    look: Annotated[PictureSize, Parameter(name="*", group=GIVEN)] = _LOOK,
    clip: Annotated[ClipOptions, Parameter(name="*", group=GIVEN)] = _CLIP,
    sampling: Annotated[Sampling, Parameter(name="*", group=ASKED)] = _GREEDY,
    hands: Annotated[HandOptions, Parameter(name="*", group=ASKED)] = _HANDS,
    system: Annotated[str | None, _ASK] = None,
    think: Annotated[bool | None, _ASK] = None,
    paper_prompt: Annotated[bool | None, _ASK] = None,
    grammar: Annotated[bool, _ASK] = True,
    batch: Annotated[Path | None, Parameter(group=GIVEN)] = None,
    json_lines: Annotated[bool, Parameter(name="--json", negative="", group=OUTPUT)] = False,
) -> None:
    """Ask one question of pictures or a video.

    Args:
        items: Pictures and videos (files, addresses, data URIs, folders of frames), then the question; a
            question before them is understood too.
        task: ask (any question), intent, next, ground (the question names what to find), when (it names what
            happens).
        model: Which model answers.
        look: How large it sees pictures.
        clip: Which frames of a video it sees.
        sampling: How tokens are chosen.
        hands: Who is asked about hands, with the task ground.
        system: System message, in place of the model's own.
        think: Let the model reason before it answers, or not; the model's own habit without it.
        paper_prompt: Text before the pictures, as EgoThinker's last training stage had it.
        grammar: Hold boxes, intervals and reasoning to their form.
        batch: File of conversations, a JSON list of messages a line, all answered together.
        json_lines: Print each answer as one JSON object a line.
    """
    model.check()
    _check_numbers(clip, sampling)
    if task != "ground" and hands != _HANDS:
        raise UsageError(f"--hands is about the task ground, and this one is {task}; leave it out")
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
        # Told before a model is loaded.
        if task == "ask" and (known := model.profile()) is not None:
            check_question(words, known)

    choice = HandChoice(())
    if task == "ground":
        choice = hands.choose([Question(task, words)], media[0])
    with closing(model.chosen().load()) as engine:
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
                hands=choice,
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
        sys.stdout.write((json_text(event) if json_lines else printable(in_words(answer))) + "\n")
    if not json_lines and any(answer.guess for answer in answers):
        note(advice(profile))
    cut = sum(answer.cut for answer in answers)
    if cut and sampling.max_tokens is None:
        # Whoever gave a limit knows it; whoever gave none takes what was printed for the whole answer.
        which = "the answer was" if len(answers) == 1 else f"{cut} of {len(answers)} answers were"
        raise EngineError(f"{which} cut off at the limit of tokens; give a larger --max-tokens")


def _media_and_words(items: Sequence[str], task: Task) -> tuple[list[str], str]:
    """Part what to look at from what is asked.

    Raises:
        UsageError: One of the two is missing.
        SourceError: A picture or video cannot be read; told here, before a model is loaded.
    """
    media, words = (list(items), "") if task in _WORDLESS else (list(items[:-1]), "".join(items[-1:]))
    if media and _is_shown(words) and not _is_shown(media[0]):
        # The question stands first.
        media, words = [*media[1:], words], media[0]
    words = readable(words)
    if media and _is_media(words):
        raise UsageError(f"{brief(words)}: stands where the question is expected; write the question last")
    if not media:
        if words and _is_shown(words):
            raise UsageError(f"{brief(words)}: what is the question? egolive ask PICTURE_OR_VIDEO QUESTION")
        raise UsageError("a question needs something to look at: egolive ask PICTURE_OR_VIDEO QUESTION")
    if task not in _WORDLESS and not words.strip():
        raise UsageError("the question is empty; write it behind the pictures")
    for item in media:
        check_media(item)
    return media, words


def _is_shown(item: str) -> bool:
    """Whether an argument names something to look at, rather than being a question."""
    return existing_path(item) is not None or item.startswith("data:") or ("://" in item and " " not in item)


def _is_media(words: str) -> bool:
    """Whether what stands for the question is data, or names a picture or video (a folder may be a word)."""
    path = existing_path(words)
    return words.startswith("data:") or (path is not None and kind_of(path) != "unknown")


def _check_numbers(clip: ClipOptions, sampling: Sampling) -> None:
    """Refuse numbers that cannot work before anything is read.

    Raises:
        UsageError: One of them cannot.
    """
    for name, number in {
        "--fps": clip.fps,
        "--nframes": clip.nframes,
        "--source-fps": clip.source_fps,
        "--max-tokens": sampling.max_tokens,
    }.items():
        # Written so that "nan" is refused too.
        if number is not None and not 0 < number < math.inf:
            raise UsageError(f"{name} is more than 0, got {number:g}")
    start, end = clip.start or 0.0, math.inf if clip.end is None else clip.end
    if not 0 <= start < end:
        raise UsageError(
            f"the stretch from --start {start:g} to --end {end:g} is empty; give its start, then its end"
        )
    if not 0 <= sampling.temperature < math.inf or not 0 < sampling.top_p <= 1 or sampling.top_k < 0:
        raise UsageError(
            "--temperature is 0 or more, --top-p is more than 0 and at most 1, --top-k is 0 or more"
        )


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


def _read_batch(path: Path) -> list[Conversation]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read; check the path") from error
    conversations: list[Conversation] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}: not JSON"
        turns = json_value(line, where=where, remedy="write one list of messages a line", most=_MOST_LINE)
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise DataError(
                f"{path}, line {number}: not a list of messages; write one list of messages a line"
            )
        conversations.append(turns)
    if not conversations:
        raise DataError(f"{path}: holds no conversation; write one list of messages a line")
    return conversations
