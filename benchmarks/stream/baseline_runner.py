"""Plays one stream to several baselines, measures them and compares their answers.

Windows grow from N to 2N - 1 slices and hand over, N hops a time; two of these make a cycle, in which each of
two caches is begun, handed over to and dropped once. All baselines answer a hop before the next one comes, so
that whatever else the machine does meanwhile is shared among them. `egolive bench stream` and `bench peers`
differ in their baselines and in the figures that they make of what is noted here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

from egolive.assistant.model.media import load_video
from egolive.assistant.prompts.grammar import GrammarMatchers
from egolive.assistant.prompts.prompts import build_prompt, vision_for, vision_of
from egolive.assistant.runtime.backend import Decoder, VisionTower
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Request, Vision
from egolive.benchmarks.stream.baselines import Answers, Said, compare
from egolive.streaming.frames import Frame, Image, Slice
from egolive.streaming.pipeline.windowing import Windows

__all__ = [
    "QUESTIONS",
    "SETS",
    "Entry",
    "Hop",
    "Measured",
    "fair_steps",
    "hops_of",
    "load_images",
    "places_of",
    "play",
]

FPS = 2.0
"""Frames a second of the stream."""
QUESTIONS = (
    Question("intent"),
    *(Question("ground", phrase) for phrase in ("left hand", "right hand", "object in the right hand")),
)
"""What is asked at each hop."""
SETS = ("window", "live")
"""All questions about the window; or, as live, the intent of the window and boxes of the newest picture."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One more slice of the stream, and what is asked then."""

    window: Vision
    sets: dict[str, tuple[Request, ...]]
    """Questions by the name of their set, see `SETS`."""

    @property
    def length(self) -> int:
        """Slices in the window."""
        return len(self.window.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One baseline with the set of questions that it answers."""

    name: str
    kind: str
    """One of `SETS`."""
    answer: Callable[[int], Answers]
    """Answers the set at the hop of this place."""
    keep_up: Callable[[int, Sequence[Said]], object] = lambda *_: None
    """Called at a hop at which it does not answer, with what the first one that does has said."""
    always: bool = False
    """It answers at every hop, and not only where all do."""


@dataclass(slots=True)
class Measured:
    """What was noted; keys are the kind and the name of an entry."""

    answers: dict[tuple[str, str], list[Answers]] = field(default_factory=lambda: defaultdict(list))
    """For each hop at which it answered."""
    audits: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """How many answers are the same as the first entry's, a tie or an error."""


def play(
    entries: Sequence[Entry],
    places: Iterable[int],
    due: Collection[int],
    *,
    tie: float,
    progress: Callable[[], object] = lambda: None,
) -> Measured:
    """Let all entries answer.

    Args:
        entries: In each set, the first is what the others' answers are compared with.
        places: Of the hops, in their order.
        due: Places at which all entries answer and are compared.
        tie: See `compare`.
        progress: Called after each hop.
    """
    measured = Measured()
    for place in places:
        for kind in SETS:
            found: dict[str, Answers] = {}
            for entry in entries:
                if entry.kind != kind:
                    continue
                if entry.always or place in due:
                    found[entry.name] = entry.answer(place)
                    measured.answers[kind, entry.name].append(found[entry.name])
                else:
                    entry.keep_up(place, next(iter(found.values())).said if found else [])
            if place in due and found:
                (_, expected), *others = found.items()
                for name, answers in others:
                    # A server gives words alone, which are not compared.
                    if answers.said:
                        pairs = zip(expected.said, answers.said, strict=True)
                        measured.audits[kind, name].update(compare(one, two, tie) for one, two in pairs)
        progress()
    return measured


def hops_of(
    engine: LocalEngine[VisionTower, Decoder],
    images: Iterable[Image],
    *,
    slices: int,
    max_tokens: int,
    questions: Sequence[Question] = QUESTIONS,
) -> Iterator[Hop]:
    """The stream, one hop for each two pictures; at first its windows are shorter than `slices`."""
    matchers = GrammarMatchers(engine.tokenizer, engine.profile)
    held = {question: matchers.matcher(question, think=False) for question in questions}
    windows, profile = Windows(slices), engine.profile
    pictures = iter(images)
    for number, (first, second) in enumerate(zip(pictures, pictures, strict=False)):
        place = 2 * number
        frames = Frame(first, place / FPS, place), Frame(second, (place + 1) / FPS, place + 1)
        window = windows.push(Slice(*frames, number))
        seen = vision_of(window, profile)
        sets: dict[str, tuple[Request, ...]] = {}
        for kind in SETS:
            requests = []
            for question in questions:
                vision = seen if kind == "window" else vision_for(question, window, profile)
                prompt = build_prompt(profile, question, [vision], window=window)
                requests.append(Request(prompt, max_tokens, key=question, matcher=held[question]))
            sets[kind] = tuple(requests)
        yield Hop(seen, sets)


def load_images(source: Path, count: int) -> list[Image]:
    """So many frames of a video, sampled as from a live stream; there and back where it is too short.

    Raises:
        SourceError: It cannot be read.
    """
    frames = [frame.image for frame in load_video(source, fps=FPS, max_frames=count, end=count / FPS)]
    return list(islice(cycle(frames + frames[-2:0:-1]), count))


def fair_steps(slices: int, hops: int) -> list[int]:
    """The k for which windows at one hop of each k are as long as those at all hops on average."""
    lengths = [slices + hop % slices for hop in range(hops)]
    steps = []
    for every in range(1, hops + 1):
        found = [lengths[place] for place in places_of(hops, every)]
        if sum(found) * hops == sum(lengths) * len(found):
            steps.append(every)
    return steps


def places_of(hops: int, every: int) -> list[int]:
    """One hop of each `every`: early in one group, as late in the next."""
    places = (
        start + (every // 2 if start // every % 2 else (every - 1) // 2) for start in range(0, hops, every)
    )
    return [place for place in places if place < hops]
