"""The audit finds answers that reuse has changed, and tells them from ties."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FakeEngine, FakeSession

from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.generation.audit import Audit, AuditCounts
from egolive.assistant.generation.generate import Sampling
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.load_local import load_engine
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import FULL_REUSE, NO_REUSE, Delta, Prompt, Request, Reuse
from egolive.assistant.schema.profiles import NANO
from egolive.streaming.frames import Frame, Slice, Window
from egolive.streaming.pipeline.windowing import Windows

REQUEST = Request(Prompt(("What?",)))


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Iterator[TorchEngine]:
    engine = load_engine(str(tiny_checkpoint), device="cpu", dtype="fp32")
    assert isinstance(engine, TorchEngine)
    yield engine
    engine.close()


class Replays(FakeEngine):
    """Says the same tokens in every session, with the margins that it is given."""

    def __init__(self, tokens: Sequence[int], margin: float = math.inf, precision: str = "fp32") -> None:
        super().__init__()
        self.info = replace(self.info, precision=precision)
        self.tokens = tokens
        self.margin = margin
        self.reuse: list[Reuse] = []

    def session(self, reuse: Reuse = FULL_REUSE) -> FakeSession:
        self.reuse.append(reuse)
        return Replay(self)


class Replay(FakeSession):
    """A session of it."""

    def __init__(self, engine: Replays) -> None:
        super().__init__(engine)
        self._replays = engine

    def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
        for token in self._replays.tokens:
            yield Delta(0, token, "", 0.0, "", self._replays.margin)


def audited(engine: TorchEngine, corrupt_at: int | None = None) -> Audit:
    """Answers to two questions about each of eight windows, all checked."""
    audit = Audit(engine, 1.0)
    rng = np.random.default_rng(0)
    windows = Windows(2)
    profile = replace(NANO, picture=(56, 84))
    questions = [Question("intent"), Question("ground", "left hand")]
    with Assistant(engine, profile, sampling=Sampling(max_tokens=8), audit=audit) as assistant:
        for number in range(8):
            first, second = (
                Frame(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8), index * 0.5, index)
                for index in (2 * number, 2 * number + 1)
            )
            window: Window = windows.push(Slice(first, second, number))
            if number == corrupt_at:
                with torch.inference_mode():
                    for kept in assistant._session.kept:  # type: ignore[attr-defined]
                        kept.cache.room(0).normal_()
            list(assistant.answer(questions, window=window))
    return audit


def test_an_audit_of_nothing_does_not_read_like_one_without_errors() -> None:
    assert AuditCounts().summary == "no answer was given again without reuse, so nothing is known"
    assert "0 errors" in AuditCounts(checked=2).summary


def test_answers_with_reuse_pass_a_whole_audit(engine: TorchEngine) -> None:
    counts = audited(engine).counts
    assert (counts.checked, counts.errors, counts.ties, counts.skipped) == (16, 0, 0, 0)


def test_boxes_of_a_model_that_knows_nothing_keep_their_form_unless_they_need_not(
    engine: TorchEngine,
) -> None:
    picture = Frame(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8), 0.0, 0)
    profile = replace(NANO, picture=(56, 84))
    statuses = {}
    for grammar in (True, False):
        with Assistant(engine, profile, sampling=Sampling(max_tokens=96), grammar=grammar) as assistant:
            (answer,) = assistant.answer([Question("ground", "left hand")], picture=picture)
        statuses[grammar] = answer.status
    assert statuses == {True: "ok", False: "unparsed"}


def test_an_error_in_what_is_kept_is_found(engine: TorchEngine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        counts = audited(engine, corrupt_at=5).counts
    assert counts.errors >= 1
    assert len(caplog.messages) == counts.errors
    # Never what was said.
    assert all("answer" in message and "<" not in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("precision", "margin", "ties", "errors"),
    [("fp32", 5e-4, 1, 0), ("fp32", 2e-3, 0, 1), ("bf16", 0.2, 1, 0), ("int4", 0.3, 0, 1)],
)
def test_a_difference_where_two_tokens_are_almost_as_likely_is_a_tie(
    precision: str, margin: float, ties: int, errors: int
) -> None:
    audit = Audit(Replays([1, 2, 3], margin, precision), 1.0)
    audit.check(REQUEST, [1, 5, 3])
    assert (audit.counts.checked, audit.counts.ties, audit.counts.errors) == (1, ties, errors)


@pytest.mark.parametrize("tokens", [[1, 2], [1, 2, 3, 4]], ids=["cut off", "too long"])
def test_an_answer_of_another_length_is_an_error(tokens: list[int]) -> None:
    audit = Audit(Replays([1, 2, 3]), 1.0)
    audit.check(REQUEST, tokens)
    assert audit.counts.errors == 1


def test_every_so_many_answers_one_is_replayed_without_reuse() -> None:
    engine = Replays([1])
    audit = Audit(engine, 0.25)
    for _ in range(9):
        audit.check(REQUEST, [1])
    assert audit.counts.checked == 3
    assert engine.reuse == [NO_REUSE] * 3


def test_drawn_answers_are_counted_as_skipped() -> None:
    audit = Audit(Replays([1]), 1.0)
    audit.check(replace(REQUEST, temperature=0.5), [2])
    assert (audit.counts.checked, audit.counts.skipped, audit.counts.errors) == (0, 1, 0)


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1, float("nan")])
def test_a_share_that_cannot_be_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Audit(Replays([]), share)
