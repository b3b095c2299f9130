"""The questions of the ablation: those of `egolive evaluate`, with visual tokens kept on disk.

The tower stands still in the whole ablation, so the test episodes are rendered and encoded once and every
model is asked over the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration

from egolive.assistant.generation.generate import GenerationRequest, Sampling, generate_answers
from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.prompts.grammar import GrammarMatchers
from egolive.assistant.prompts.prompts import build_prompt, vision_of
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import NANO
from egolive.assistant.schema.tokenizer import Tokenizer
from egolive.streaming.clock import MonotonicClock
from egolive.streaming.frames import Frame, Interval
from egolive.train.ablation.ablation_answers import StoredSession
from egolive.train.evaluate.episode_scores import record
from egolive.train.evaluate.evaluate import episode_parts
from egolive.train.evaluate.result_files import Record, Results
from egolive.train.nano.answer_batches import PICTURE
from egolive.train.nano.nano_model import HEIGHT, WIDTH
from egolive.train.nano.tower_training import Tower

__all__ = ["StoredPart", "answer_questions", "encode_questions", "stored_questions"]

AT_ONCE = {"image": 32, "video": 12}
"""Pictures, or windows, that go through a model together."""


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A picture or window of a test episode: its visual tokens and what is asked of it."""

    episode: int
    time: float
    vision: Vision
    """Of the right form, without pixels."""
    tokens: Tensor
    """(n, width) float32."""
    size: tuple[int, int]
    """Width and height that boxes are in, source pixels."""
    asked: tuple[tuple[Question, object], ...]
    """Questions with their true answers, as in `egolive.train.evaluate.evaluate.EpisodePart`."""
    more: dict[str, object]
    window: Interval | None
    """The stretch that is seen; None for a picture."""

    def requests(self) -> list[GenerationRequest]:
        """What is put to a model."""
        return [
            GenerationRequest(
                question=question,
                prompt=build_prompt(NANO, question, [self.vision], window=self.window),
                source_size=self.size,
                window=self.window,
                time=self.time,
            )
            for question, _ in self.asked
        ]

    def records(self, answers: Sequence[Answer]) -> list[Record]:
        """One line of results for each question, as `egolive evaluate` writes it."""
        return [
            record(self.episode, self.time, question, truth, answer, **self.more)
            for (question, truth), answer in zip(self.asked, answers, strict=True)
        ]


def encode_questions(tower: Tower, folder: Path, *, episodes: int, seed: int, slices: int) -> None:
    """Render and encode the test episodes that `folder` does not have yet, one pair of files an episode."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = Preprocessor()
    tower.eval()
    for index in track(range(episodes), description="encoding test episodes", console=Console(stderr=True)):
        told = folder / f"{index:05d}.json"
        if told.exists():
            continue
        lines, pairs = [], []
        for part in episode_parts(index, "test", seed, slices):
            vision = vision_of(part.shown, NANO)
            step = 1 if vision.kind == "image" else 2
            mine = [vision.frames[place : place + step] for place in range(0, len(vision.frames), step)]
            newest = part.shown if isinstance(part.shown, Frame) else part.shown.newest
            pairs += mine
            lines.append(
                {
                    "kind": vision.kind,
                    "slices": len(mine),
                    "time": newest.time,
                    "size": [newest.width, newest.height],
                    "asked": [[one.task, one.phrase, truth] for one, truth in part.asked],
                    "more": part.more,
                }
            )
        patches = [preprocess.patches(pair, HEIGHT, WIDTH)[0] for pair in pairs]
        with torch.inference_mode():
            tokens = torch.cat(
                [tower.tokens(rows) for rows in torch.split(torch.from_numpy(np.stack(patches)), 32)]
            )
        np.save(told.with_suffix(".npy"), tokens.cpu().numpy())
        partial = told.with_suffix(".part")
        partial.write_text(json.dumps(lines))
        partial.replace(told)


def stored_questions(folder: Path, episodes: int) -> Iterator[StoredPart]:
    """What `encode_questions` has written, without the parts of which nothing is asked."""
    for index in range(episodes):
        told = folder / f"{index:05d}.json"
        tokens = torch.from_numpy(np.load(told.with_suffix(".npy")))
        first = 0
        for line in json.loads(told.read_text()):
            count = line["slices"]
            mine = tokens[first : first + count].flatten(0, 1)
            first += count
            asked = tuple((Question(task, phrase), truth) for task, phrase, truth in line["asked"])
            span = line["more"].get("window")
            frames = (PICTURE,) * (1 if line["kind"] == "image" else 2 * count)
            if asked:
                yield StoredPart(
                    index,
                    line["time"],
                    Vision(frames, HEIGHT, WIDTH, line["kind"]),
                    mine,
                    tuple(line["size"]),
                    asked,
                    line["more"],
                    Interval(*span) if span else None,
                )


def answer_questions(
    model: Qwen2VLForConditionalGeneration,
    tokenizer: Tokenizer,
    parts: Sequence[StoredPart],
    results: Results,
    *,
    description: str,
) -> None:
    """Ask a model everything that `results` does not hold yet; parts of one length go together."""
    tokens = {id(part.vision): part.tokens for part in parts}
    matchers = GrammarMatchers(tokenizer, NANO)
    clock = MonotonicClock()
    done = {line["batch"] for line in results.records}
    with StoredSession(model, tokenizer, lambda vision: tokens[id(vision)]) as session:
        for number, together in enumerate(
            track(_batches(parts), description=description, console=Console(stderr=True))
        ):
            if number in done:
                continue
            requests = [request for part in together for request in part.requests()]
            found = dict(generate_answers(session, requests, NANO, Sampling(), clock, matchers=matchers))
            answers = iter([found[place] for place in range(len(requests))])
            lines = [
                line for part in together for line in part.records(list(islice(answers, len(part.asked))))
            ]
            for place, line in enumerate(lines, start=1):
                results.add({**line, "batch": number}, last=place == len(lines))


def _batches(parts: Sequence[StoredPart]) -> list[list[StoredPart]]:
    """What goes through a model together: of one kind and one length."""
    alike: dict[tuple[str, int], list[StoredPart]] = {}
    for part in parts:
        alike.setdefault((part.vision.kind, len(part.tokens)), []).append(part)
    return [
        some[place : place + AT_ONCE[kind]]
        for (kind, _), some in alike.items()
        for place in range(0, len(some), AT_ONCE[kind])
    ]
