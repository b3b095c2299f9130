"""Plays one stream to all sides of `egolive bench stream` and notes what they say and how long they take.

Windows grow from N to 2N - 1 slices and hand over, N hops a time; two of these make a cycle, in which each of
two caches is begun, handed over to and dropped once. All sides answer a hop before the next one comes, so
that whatever else the machine does meanwhile is shared among them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace

from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.generation.audit import tie_margin
from egolive.assistant.prompts.grammar import GrammarMatchers
from egolive.assistant.prompts.prompts import build_prompt, vision_of
from egolive.assistant.runtime.backend import Decoder, VisionTower
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Request, Vision
from egolive.assistant.schema.reuse import FULL_REUSE, NO_REUSE, Reuse
from egolive.benchmarks.stream.stream_baselines import Cost, EngineSide, GenerateSide, Said, compare
from egolive.streaming.frames import Frame, Image, Slice
from egolive.streaming.pipeline.windowing import Windows

__all__ = [
    "FPS",
    "QUESTIONS",
    "SWITCHES",
    "Hop",
    "Measured",
    "hops_of",
    "naive_places",
    "play",
    "play_drafts",
]

FPS = 2.0
"""Frames a second of the stream."""
QUESTIONS = (
    Question("intent"),
    *(Question("ground", phrase) for phrase in ("left hand", "right hand", "object in the right hand")),
)
"""What is asked at each hop."""
SWITCHES = ("slices", "prefix", "together", "draft")
"""Kinds of reuse, each a switch of `Reuse`."""

_WINDOW: dict[str, Reuse] = {"all": FULL_REUSE, "none": NO_REUSE}
for _switch in SWITCHES:
    _WINDOW[f"{_switch} alone"] = replace(NO_REUSE, **{_switch: True})
    _WINDOW[f"without {_switch}"] = replace(FULL_REUSE, **{_switch: False})
_LIVE: dict[str, Reuse] = {"live": FULL_REUSE, "live without draft": replace(FULL_REUSE, draft=False)}
_EVERY_HOP = {"all", "live"}
"""The sides that answer at every hop; the others do where the naive ones do, to save time."""
_NEEDED = {"all", "without draft", *_LIVE}
"""The sides without which nothing can be said."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One more slice of the stream, and what is asked then."""

    window: Vision
    asked: tuple[Request, ...]
    """All questions of the window."""
    live: tuple[Request, ...]
    """The intent of the window, boxes of the newest picture."""

    @property
    def length(self) -> int:
        """Slices in the window."""
        return len(self.window.keys)


@dataclass(slots=True)
class Measured:
    """What was noted. Sides are "a", "b", "c", "b encoding" (part of b) and the switches of the engine's."""

    lengths: list[int] = field(default_factory=list)
    """Slices of the window at each hop."""
    naive: list[int] = field(default_factory=list)
    """Places of the hops at which the naive sides answered."""
    costs: dict[str, list[Cost]] = field(default_factory=lambda: defaultdict(list))
    """By side, for each hop at which it answered."""
    audits: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """By side, answers that are the same, a tie or an error."""
    usage: dict[str, Counter[str]] = field(default_factory=dict)
    """By side of the engine, over all its hops."""

    def answered(self, side: str) -> Sequence[int]:
        """Places of the hops at which a side answered."""
        return range(len(self.lengths)) if side in _EVERY_HOP else self.naive


def hops_of(
    engine: LocalEngine[VisionTower, Decoder], images: Sequence[Image], *, slices: int, max_tokens: int
) -> Iterator[Hop]:
    """The stream, one hop for each two pictures; at first its windows are shorter than `slices`."""
    matchers = GrammarMatchers(engine.tokenizer, engine.profile)
    held = {question: matchers.matcher(question, think=False) for question in QUESTIONS}
    windows = Windows(slices)
    frames = [Frame(image, place / FPS, place) for place, image in enumerate(images)]
    for number, (first, second) in enumerate(zip(frames[::2], frames[1::2], strict=True)):
        window = windows.push(Slice(first, second, number))
        seen, picture = vision_of(window, engine.profile), vision_of(second, engine.profile)

        def request(question: Question, vision: Vision, window: object = window) -> Request:
            prompt = build_prompt(engine.profile, question, [vision], window=window)  # type: ignore[arg-type]
            return Request(prompt, max_tokens, key=question, matcher=held[question])

        yield Hop(
            seen,
            tuple(request(question, seen) for question in QUESTIONS),
            tuple(request(q, picture if q.task == "ground" else seen) for q in QUESTIONS),
        )


def fair_steps(lengths: Sequence[int]) -> list[int]:
    """The k for which the windows of one hop of each k are as long as those of all hops on average."""
    total = sum(lengths)
    steps = []
    for every in range(1, len(lengths) + 1):
        found = [lengths[place] for place in naive_places(len(lengths), every)]
        if sum(found) * len(lengths) == total * len(found):
            steps.append(every)
    return steps


def naive_places(hops: int, every: int) -> list[int]:
    """One hop of each `every`: early in one group, as late in the next."""
    places = (
        start + (every // 2 if start // every % 2 else (every - 1) // 2) for start in range(0, hops, every)
    )
    return [place for place in places if place < hops]


def play(
    engine: TorchEngine,
    hops: Sequence[Hop],
    *,
    slices: int,
    naive_every: int,
    gains: bool = True,
    progress: Callable[[], object] = lambda: None,
) -> Measured:
    """Let all sides answer.

    The first slices - 1 hops fill the first window; they are not measured.

    Args:
        engine: Gives weights and kernels to all.
        hops: The stream.
        slices: N, of a full window.
        naive_every: The naive sides, and those with less reuse than all, answer at one hop of so many; at the
            others the engine's sessions only see the window.
        gains: Also let the engine answer with each reuse alone, and with all others.
        progress: Called after each hop.
    """
    growing, rest = hops[: slices - 1], hops[slices - 1 :]
    measured = Measured(lengths=[hop.length for hop in rest])
    measured.naive = naive_places(len(rest), naive_every)
    tie = tie_margin(engine.info.precision)
    naive = GenerateSide(engine)
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(closing(EngineSide(engine, reuse)))
            for name, reuse in (_WINDOW | _LIVE).items()
            if gains or name in _NEEDED
        }
        for place, hop in enumerate(growing):
            if place == 0:
                naive.one(hop.asked[0])
                naive.one(hop.live[-1])
                naive.batch(hop.asked)
            _answer(sides, hop, measured, due=place == 0)
            progress()
        measured.costs.clear()
        for side in sides.values():
            side.usage.clear()
        for place, hop in enumerate(rest):
            due = place in measured.naive
            said = _generate(naive, hop, measured.costs) if due else {}
            said |= _answer(sides, hop, measured, due=due)
            _audit(said, "a", "all", tie, measured.audits)
            _audit(said, "c", "live", tie, measured.audits)
            progress()
        measured.usage = {name: side.usage for name, side in sides.items()}
    return measured


def play_drafts(
    engine: TorchEngine,
    hops: Iterable[Hop],
    *,
    slices: int,
    progress: Callable[[], object] = lambda: None,
) -> Counter[str]:
    """The engine's counts of the live questions over a stream, without those that fill the first window."""
    with closing(EngineSide(engine, FULL_REUSE)) as side:
        for place, hop in enumerate(hops):
            if place == slices - 1:
                side.usage.clear()
            side.answer(hop.live)
            progress()
        return side.usage


def _answer(
    sides: dict[str, EngineSide], hop: Hop, measured: Measured, *, due: bool
) -> dict[str, list[Said]]:
    """Let the engine's sides answer, or keep up with what "all" and "live", which come first, have said."""
    said: dict[str, list[Said]] = {}
    for name, side in sides.items():
        ours, requests = ("live", hop.live) if name in _LIVE else ("all", hop.asked)
        if due or name in _EVERY_HOP:
            said[name], cost = side.answer(requests)
            measured.costs[name].append(cost)
        else:
            side.keep_up(hop.window, requests, said[ours])
    return said


def _generate(naive: GenerateSide, hop: Hop, costs: dict[str, list[Cost]]) -> dict[str, list[Said]]:
    """Let transformers answer; the intent of the window is the same question for a and c, asked once."""
    window = [naive.one(request) for request in hop.asked]
    picture = [naive.one(request) for request in hop.live[1:]]
    batch, encoding, rest = naive.batch(hop.asked)
    intent = window[0]
    nothing = Cost(0.0, 0.0)
    costs["a"].append(sum((cost for _, cost in window), nothing))
    costs["b"].append(encoding + rest)
    costs["b encoding"].append(encoding)
    costs["c"].append(sum((cost for _, cost in picture), intent[1]))
    return {
        "a": [said for said, _ in window],
        "b": batch,
        "c": [intent[0], *(said for said, _ in picture)],
    }


def _audit(
    said: dict[str, list[Said]], first: str, ours: str, tie: float, audits: dict[str, Counter[str]]
) -> None:
    """Hold answers to the same questions against those of `first`, or against ours where that is missing."""
    live = ours in _LIVE
    expected = said.get(first, said[ours])
    for name, answers in said.items():
        if answers is expected or (name in _LIVE or name == "c") != live:
            continue
        for one, other in zip(expected, answers, strict=True):
            audits[name][compare(one, other, tie)] += 1
