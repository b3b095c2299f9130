"""Reuse changes no answer: each switch against the naive loop, over whole cycles of windows with a gap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from streams import (
    GAP,
    LENGTH,
    SLICE,
    SLICES,
    STREAM,
    WINDOW_QUESTIONS,
    Recorder,
    answers,
    ask,
    requests_at,
    stream,
    tokens,
)

from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.load_local import load_engine
from egolive.assistant.model.positions import rope_positions
from egolive.assistant.runtime.backend import ForwardInput
from egolive.assistant.schema.engine import FULL_REUSE, NO_REUSE, Reuse

SWITCHES = ("slices", "prefix", "together", "draft")


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Iterator[TorchEngine]:
    engine = load_engine(str(tiny_checkpoint), device="cpu", dtype="fp32")
    assert isinstance(engine, TorchEngine)
    yield engine
    engine.close()


class OnlyAfter(Recorder):
    """A guide that allows one token less than the one before, and ends after five."""

    def mask(self, logits: torch.Tensor) -> None:
        allowed = 30 + len(self.accepted)
        logits[:allowed] = -torch.inf
        logits[allowed + 8 :] = -torch.inf

    @property
    def finished(self) -> bool:  # type: ignore[override]
        return len(self.accepted) == 5

    @finished.setter
    def finished(self, _: bool) -> None: ...


def play(engine: TorchEngine, reuse: Reuse) -> list[tuple[list[list[int]], list[torch.Tensor]]]:
    """For each window the tokens of all answers, and the logits that they were chosen from."""
    found = []
    with engine.session(reuse) as session:
        for window, picture in STREAM:
            matchers = [Recorder() for _ in range(3)]
            requests = [
                replace(request, matcher=matcher)
                for request, matcher in zip(requests_at(window, picture), matchers, strict=True)
            ]
            said = tokens(answers(session, requests))
            found.append((said, [torch.stack(matcher.logits) for matcher in matchers]))
    return found


@pytest.fixture(scope="module")
def naive(engine: TorchEngine) -> list[tuple[list[list[int]], list[torch.Tensor]]]:
    return play(engine, NO_REUSE)


@pytest.mark.parametrize(
    "reuse",
    [FULL_REUSE]
    + [replace(FULL_REUSE, **{switch: False}) for switch in SWITCHES]
    + [replace(NO_REUSE, **{switch: True}) for switch in SWITCHES],
    ids=["all"] + [f"without {switch}" for switch in SWITCHES] + [f"{switch} alone" for switch in SWITCHES],
)
def test_every_switch_leaves_tokens_and_logits_as_the_naive_loop_has_them(
    engine: TorchEngine, naive: list[tuple[list[list[int]], list[torch.Tensor]]], reuse: Reuse
) -> None:
    for (expected, exact), (said, logits) in zip(naive, play(engine, reuse), strict=True):
        assert said == expected
        for one, other in zip(exact, logits, strict=True):
            # Tokens that may not be said are at minus infinity in both.
            allowed = one.isfinite()
            assert torch.equal(allowed, other.isfinite())
            assert (one[allowed] - other[allowed]).abs().max() <= 1e-4


def test_the_answers_compared_depend_on_what_is_seen(
    naive: list[tuple[list[list[int]], list[torch.Tensor]]],
) -> None:
    said = [answer for found, _ in naive for answer in found]
    assert len({token for answer in said for token in answer}) >= 8
    assert len({tuple(answer) for answer in said}) >= 30


def test_a_slice_is_encoded_once_for_all_windows_that_hold_it(engine: TorchEngine) -> None:
    encoded = used = 0
    with engine.session() as session:
        for window, picture in STREAM:
            answers(session, requests_at(window, picture))
            usage = session.usage()
            assert usage["slices_ahead"] == 0
            encoded, used = encoded + usage["slices_encoded"], used + usage["slices_used"]
    assert encoded == 2 * SLICES
    assert used == sum(2 * len(window.keys) + 1 for window, _ in STREAM)


def test_a_window_reads_its_new_slice_only_and_so_does_the_one_that_takes_over(engine: TorchEngine) -> None:
    lengths, read = [], []
    with engine.session() as session:
        for window, _ in STREAM:
            requests = [ask(window, question) for question in WINDOW_QUESTIONS]
            answers(session, requests)
            first, second = session.usage(0), session.usage(1)
            tails = [len(engine.tokenizer.encode(str(request.prompt.parts[-1]))) for request in requests]
            assert second["prompt_tokens"] - second["prompt_tokens_reused"] == tails[1] + 1
            lengths.append(len(window.keys))
            read.append(first["prompt_tokens"] - first["prompt_tokens_reused"] - tails[0] - 1)
            # Beside it, the younger window is read, its opening once.
            assert session.usage()["prompt_tokens_ahead"] == (SLICE if lengths[-1] > LENGTH else 0)
    assert lengths == [1, 2, 3, 4, 5, 3, 4, 5, 3, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 3, 4]
    # After the first prompt its opening is not read again, not even behind the gap.
    assert read[0] > SLICE
    assert read[1:] == [SLICE] * (SLICES - 1)


def test_sliding_windows_are_read_anew_but_for_their_opening(engine: TorchEngine) -> None:
    with engine.session() as session:
        for window, _ in stream(sliding=True)[:6]:
            answers(session, [ask(window, WINDOW_QUESTIONS[0])])
        usage = session.usage()
    assert usage["slices_encoded"] == 1
    assert usage["prompt_tokens_ahead"] == 0
    assert usage["prompt_tokens"] - usage["prompt_tokens_reused"] > LENGTH * SLICE


def test_what_is_kept_stays_within_its_bounds(engine: TorchEngine) -> None:
    most = []
    with engine.session() as session:
        for window, picture in STREAM:
            answers(session, requests_at(window, picture))
            rows = session.kept
            assert len(rows) <= 5
            most.append(rows.nbytes)
    half = GAP + 2
    assert max(most[half:]) <= max(most[:half])


def test_rows_that_do_not_fit_are_not_kept_and_answers_stay(engine: TorchEngine) -> None:
    window, picture = STREAM[3]
    with engine.session() as free, engine.session() as bound:
        bound.kept.limit = 1000
        expected = tokens(answers(free, requests_at(window, picture)))
        for _ in range(2):
            assert tokens(answers(bound, requests_at(window, picture))) == expected
            assert bound.kept.nbytes == 0


@pytest.mark.parametrize("stop", [1, 3, 4, 8])
def test_closing_the_answers_midway_leaves_what_is_kept_valid(
    engine: TorchEngine, naive: list[tuple[list[list[int]], list[torch.Tensor]]], stop: int
) -> None:
    with engine.session() as session:
        for number, (window, picture) in enumerate(STREAM[:9]):
            requests = requests_at(window, picture)
            if number % 2:
                assert tokens(answers(session, requests)) == naive[number][0]
                continue
            deltas = session.ask(requests)
            for _ in range(stop):
                next(deltas)
            deltas.close()  # type: ignore[attr-defined]
            assert session.usage()["completion_tokens"] == stop
        assert list(deltas) == []


def test_an_ask_ends_the_one_before(engine: TorchEngine) -> None:
    window, picture = STREAM[4]
    with engine.session() as session:
        expected = tokens(answers(session, requests_at(window, picture)))
        before = session.ask(requests_at(window, picture))
        next(before)
        assert tokens(answers(session, requests_at(window, picture))) == expected
        assert list(before) == []


def test_a_repeated_answer_is_drafted_and_accepted_whole(engine: TorchEngine) -> None:
    window, picture = STREAM[4]
    requests = requests_at(window, picture)
    with engine.session() as session:
        first = answers(session, requests)
        assert session.usage()["draft_proposed"] == 0
        again = answers(session, requests)
        for number, answer in enumerate(first):
            usage = session.usage(number)
            # The token behind the draft needs none.
            assert usage["draft_proposed"] == usage["draft_accepted"] >= len(answer) - 1
        assert tokens(again) == tokens(first)


def test_an_answer_that_is_drawn_or_has_no_key_is_not_drafted(engine: TorchEngine) -> None:
    request = ask(None, "What?")
    for plain in (replace(request, key=None), replace(request, temperature=1.0)):
        with engine.session() as session:
            for _ in range(2):
                answers(session, [plain])
                assert session.usage()["draft_proposed"] == 0


def test_counts_of_the_requests_add_up(engine: TorchEngine) -> None:
    with engine.session() as session:
        for window, picture in STREAM[:6]:
            requests = requests_at(window, picture)
            found = answers(session, requests)
            total = session.usage()
            each = [session.usage(number) for number in range(3)]
            assert [usage["completion_tokens"] for usage in each] == [len(answer) for answer in found]
            assert [usage["slices_used"] for usage in each] == [len(window.keys)] * 2 + [1]
            for key in each[0]:
                assert total[key] == sum(usage[key] for usage in each)


def test_what_was_seen_ahead_is_neither_encoded_nor_read_again(engine: TorchEngine) -> None:
    (window, _), (grown, _) = STREAM[3:5]
    request, later = ask(window, "What comes next?"), ask(grown, "What comes next?")
    with engine.session() as session:
        answers(session, [request])
        session.see(grown)
        assert session.usage()["slices_ahead"] == 1
        assert session.usage()["prompt_tokens_ahead"] == 3 * SLICE
        after = tokens(answers(session, [later]))
        usage = session.usage()
        assert (usage["slices_encoded"], usage["slices_ahead"], usage["prompt_tokens_ahead"]) == (0, 0, 0)
    with engine.session(NO_REUSE) as fresh:
        assert after == tokens(answers(fresh, [later]))


@pytest.mark.parametrize("reuse", [FULL_REUSE, NO_REUSE], ids=["reuse", "naive"])
def test_a_guide_decides_what_may_be_said_and_stands_at_its_beginning_again(
    engine: TorchEngine, reuse: Reuse
) -> None:
    matcher = OnlyAfter()
    request = replace(ask(STREAM[3][0], "What comes next?"), matcher=matcher)
    with engine.session(reuse) as session:
        for _ in range(2):
            (answer,) = answers(session, [request])
            assert [delta.finished for delta in answer] == [""] * 4 + ["stop"]
            assert all(30 + place <= d.token < 38 + place for place, d in enumerate(answer))
            assert matcher.accepted == []
        assert session.usage()["draft_accepted"] == (5 if reuse.draft else 0)
        deltas = session.ask([replace(request, key=None)])
        next(deltas)
        assert len(matcher.accepted) == 1
        deltas.close()  # type: ignore[attr-defined]
        assert matcher.accepted == []


def test_a_margin_is_that_of_the_two_likeliest_tokens(engine: TorchEngine) -> None:
    recorder = Recorder()
    with engine.session() as session:
        (answer,) = answers(session, [replace(ask(None, "What?"), matcher=recorder)])
    for delta, logits in zip(answer, recorder.logits, strict=True):
        first, second = logits.sort(descending=True).values[:2].tolist()
        assert delta.margin == pytest.approx(first - second, abs=1e-4)


def test_branches_read_side_by_side_are_as_each_alone(engine: TorchEngine) -> None:
    _, decoder = engine.backend()
    prefix, tails = decoder.embed(range(20, 31)), [decoder.embed(range(40, 44)), decoder.embed(range(50, 57))]
    places = rope_positions([20])
    alone = []
    for tail in tails:
        (logits,) = decoder.forward(
            [ForwardInput(decoder.new_cache(), torch.cat([prefix, tail]), places[:, : 11 + len(tail)])]
        )
        alone.append(logits)
    row, other = decoder.new_cache(), decoder.new_cache()
    branches = [row.fork(), row.fork()]
    found = decoder.forward(
        [
            ForwardInput(row, prefix, places[:, :11], keep=0),
            ForwardInput(other, prefix, places[:, :11], keep=2),
            *(
                ForwardInput(branch, tail, places[:, 11 : 11 + len(tail)])
                for branch, tail in zip(branches, tails, strict=True)
            ),
        ]
    )
    assert [len(logits) for logits in found] == [0, 2, 1, 1]
    for one, two in zip(alone, found[2:], strict=True):
        assert (one - two).abs().max() <= 1e-4
    # Taken back and read again, between tokens of the other branch.
    branches[0].rewind(2)
    assert (branches[0].length, branches[1].length, row.length) == (2, 7, 11)
    (again,) = decoder.forward([ForwardInput(branches[0], tails[0][2:], places[:, 13:15])])
    assert (again - alone[0]).abs().max() <= 1e-4


def test_a_row_is_not_read_further_under_its_branches(engine: TorchEngine) -> None:
    _, decoder = engine.backend()
    row, places = decoder.new_cache(), rope_positions([8])
    branch = row.fork()
    decoder.forward(
        [
            ForwardInput(row, decoder.embed((20,)), places[:, :1]),
            ForwardInput(branch, decoder.embed((21,)), places[:, 1:2]),
        ]
    )
    with pytest.raises(ValueError, match="thrown away"):
        decoder.forward([ForwardInput(row, decoder.embed((22,)), places[:, 1:2])])
    with pytest.raises(ValueError, match="cannot be cut to 2"):
        branch.rewind(2)
    row.drop_forks()
    decoder.forward([ForwardInput(row, decoder.embed((22,)), places[:, 1:2])])
    assert row.length == 2
    with pytest.raises(ValueError, match="thrown away"):
        decoder.forward([ForwardInput(branch, decoder.embed((21,)), places[:, 1:2])])
