"""Decode steps in fixed shapes say what all other passes say, and are fit to be replayed without Python."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streams import STREAM, Said, assert_close, requests_at
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from egolive.assistant.backends.torch.cuda_graphs import COLUMNS, TOKENS, StaticSteps, uncaptured
from egolive.assistant.backends.torch.torch_decoder import TorchDecoder
from egolive.assistant.backends.torch.torch_engine import TorchEngine, TorchTower
from egolive.assistant.cli.options import ModelOptions
from egolive.assistant.load_local import load_engine
from egolive.assistant.runtime.backend import CacheFork, ForwardInput, KVCache
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.schema.engine import FULL_REUSE, NO_REUSE, Reuse
from egolive.streaming.errors import EngineError

DRAWN_CLOSE = 3e-5
"""The same for numbers drawn at random instead of prompts: 1.03e-5 was seen with two threads."""
HOST_ONLY = {"_local_scalar_dense", "item", "lift_fresh", "masked_select", "nonzero", "unique2"}
"""Operations that wait for the device or bring numbers from Python: a CUDA graph cannot hold them."""


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A CUDA graph without a GPU: the operations of a step, done again on the very same memory.

    As a graph does, a replay runs none of the step's Python, and finds numbers where they were when it was
    recorded.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, made))
        return made

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, made in self.done:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                assert isinstance(old, torch.Tensor), f"{func} gives a number to Python"
                assert old.shape == new.shape
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Tapes:
    """A capture by tapes; a step runs before, as it does when a GPU warms up."""

    def __init__(self) -> None:
        self.all: list[Tape] = []

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        step()
        tape = Tape()
        with tape:
            step()
        self.all.append(tape)
        return tape.replay


@pytest.fixture(scope="module")
def plain(tiny_checkpoint: Path) -> Iterator[TorchEngine]:
    engine = load_engine(str(tiny_checkpoint), device="cpu", dtype="fp32")
    assert isinstance(engine, TorchEngine)
    yield engine
    engine.close()


@pytest.fixture
def tapes() -> Tapes:
    return Tapes()


@pytest.fixture
def decoder(plain: TorchEngine, tapes: Tapes) -> TorchDecoder:
    """The same weights, with static steps that are replayed."""
    return TorchDecoder(plain.backend()[1].model, tapes)


@pytest.fixture
def static(plain: TorchEngine, decoder: TorchDecoder) -> LocalEngine[TorchTower, TorchDecoder]:
    return LocalEngine(
        plain.backend()[0],
        decoder,
        tokenizer=plain.tokenizer,
        preprocessor=plain.preprocessor,
        profile=plain.profile,
        info=plain.info,
        context=4096,
        vocabulary=len(decoder.head),
        device=torch.device("cpu"),
    )


def steps_of(decoder: TorchDecoder) -> StaticSteps:
    assert decoder.static is not None
    return decoder.static


@pytest.mark.parametrize("reuse", [FULL_REUSE, Reuse(draft=False), NO_REUSE], ids=["all", "no draft", "none"])
def test_a_stream_is_answered_as_without_static_steps(
    plain: TorchEngine, static: LocalEngine[TorchTower, TorchDecoder], tapes: Tapes, reuse: Reuse
) -> None:
    expected, found = Said(), Said()
    with plain.session(reuse) as one, static.session(reuse) as other:
        for number in (3, 4, 8, 9, 10) if reuse != NO_REUSE else (4,):
            expected.at(one, number)
            found.at(other, number)
    found.assert_like(expected)
    assert len({token for said in found.tokens for answer in said for token in answer}) >= 8
    assert sum(tape.replays for tape in tapes.all) > 50
    assert len(tapes.all) <= 8


def test_sessions_that_share_a_decoder_and_stop_midway_do_not_disturb_each_other(
    plain: TorchEngine, static: LocalEngine[TorchTower, TorchDecoder]
) -> None:
    def play(engine: LocalEngine[TorchTower, TorchDecoder]) -> Said:
        said = Said()
        with engine.session() as one, engine.session() as other:
            for number in range(3, 6):
                deltas = one.ask(requests_at(*STREAM[number]))
                for _ in range(4):
                    next(deltas)
                said.at(other, 7 - number)
                if number % 2:
                    # It goes on where the other one has stepped in between.
                    list(deltas)
                said.at(one, number)
        return said

    play(static).assert_like(play(plain))


class Twins:
    """The same rows and branches in two decoders, read side by side with numbers drawn at random."""

    def __init__(self, decoders: Sequence[TorchDecoder], seed: int) -> None:
        self.decoders = decoders
        self.rng = np.random.default_rng(seed)
        self.rows: list[list[KVCache]] = []

    def row(self, length: int) -> int:
        self.rows.append([decoder.new_cache() for decoder in self.decoders])
        self.read([(self.rows[-1], length)])
        return len(self.rows) - 1

    def branches(self, row: int, count: int) -> list[list[CacheFork]]:
        return [[one.fork() for one in self.rows[row]] for _ in range(count)]

    def read(self, onto: Sequence[tuple[Sequence[KVCache | CacheFork], int]]) -> None:
        width = self.decoders[0].model.config.text_config.hidden_size
        drawn = [
            (
                torch.from_numpy(0.05 * self.rng.standard_normal((count, width))).float(),
                self.rng.integers(0, 500, (3, count)),
                int(self.rng.integers(0, count + 1)),
            )
            for _, count in onto
        ]
        found = []
        for number, decoder in enumerate(self.decoders):
            chunks = [
                ForwardInput(each[number], *given) for (each, _), given in zip(onto, drawn, strict=True)
            ]
            found.append(decoder.forward(chunks))
        for (_, _, keep), one, two in zip(drawn, *found, strict=True):
            assert one.shape == two.shape == (keep, len(self.decoders[0].head))
            if keep:
                assert_close(one, two, DRAWN_CLOSE)


@pytest.fixture
def twins(plain: TorchEngine, decoder: TorchDecoder) -> Twins:
    return Twins([decoder, plain.backend()[1]], seed=0)


def test_rows_grow_fork_and_are_taken_back_in_any_order(twins: Twins, decoder: TorchDecoder) -> None:
    """Past the columns left free, past sizes of a step, in and out of steps that are too large."""
    rng = np.random.default_rng(1)
    for _ in range(2):
        twins.row(int(rng.integers(200, 260)))
    branches: list[list[CacheFork]] = []
    for number in range(120):
        if number % 40 == 39:
            # The next question: all begins again behind longer rows, or in a fork of one.
            for row in twins.rows:
                for one in row:
                    one.drop_forks()
            cut = int(rng.integers(1, 200))
            twins.rows[int(rng.integers(2))] = [one.copy(cut) for one in twins.rows[0]]
            twins.read([(row, int(rng.integers(1, 70))) for row in twins.rows])
            branches = []
        if len(branches) < 5:
            branches += twins.branches(int(rng.integers(2)), 1)
        size = 12 if number % 10 == 9 else 3
        picked = [branch for branch in branches if rng.random() < 0.8]
        twins.read([(branch, int(rng.integers(1, size))) for branch in picked])
        for branch in picked:
            if rng.random() < 0.3:
                length = int(rng.integers(max(0, branch[0].length - 4), branch[0].length + 1))
                for twin in branch:
                    twin.rewind(length)
    sizes = steps_of(decoder).sizes
    assert len({tokens for tokens, _ in sizes}) >= 4
    assert len({columns for _, columns in sizes}) >= 2


def test_one_recording_serves_all_rows_and_lengths_of_a_size(
    twins: Twins, decoder: TorchDecoder, tapes: Tapes
) -> None:
    for length in (30, 45, 7):
        (branch,) = twins.branches(twins.row(length), 1)
        for _ in range(3):
            twins.read([(branch, 3)])
    static = steps_of(decoder)
    assert static.sizes == [(4, COLUMNS[0])]
    assert [tape.replays for tape in tapes.all] == [9]
    # The fourth token is padding; some kernels make numbers that are none of one that sees nothing.
    assert vars(static)["_seen"][:4, : COLUMNS[0]].any(dim=1).tolist() == [True] * 4


def test_a_recorded_step_touches_only_memory_that_stays_and_never_asks_the_host(
    twins: Twins, decoder: TorchDecoder, tapes: Tapes
) -> None:
    static = steps_of(decoder)
    stay = [*decoder.model.parameters(), *decoder.model.buffers(), decoder.head]
    stay += [tensor for tensor in vars(static).values() if torch.is_tensor(tensor)]
    known = {tensor.untyped_storage().data_ptr() for tensor in stay}
    for row in (twins.row(40), twins.row(600)):
        for branch in twins.branches(row, 2):
            twins.read([(branch, 1)])
    assert [columns for _, columns in static.sizes] == list(COLUMNS[:2])
    for tape in tapes.all:
        made = {
            leaf.untyped_storage().data_ptr()
            for _, _, _, outputs in tape.done
            for leaf in tree_leaves(outputs)
        }
        for func, args, kwargs, _ in tape.done:
            assert func.overloadpacket.__name__ not in HOST_ONLY
            for leaf in tree_leaves((args, kwargs)):
                if torch.is_tensor(leaf):
                    assert leaf.untyped_storage().data_ptr() in known | made
    # Nothing of it was put in another place meanwhile.
    after = [tensor for tensor in vars(static).values() if torch.is_tensor(tensor)]
    assert {tensor.untyped_storage().data_ptr() for tensor in after} <= known


def test_larger_passes_and_rows_own_tokens_go_without(twins: Twins, tapes: Tapes) -> None:
    row = twins.row(20)
    (branch,) = twins.branches(row, 1)
    twins.read([(branch, TOKENS[-1] + 1)])
    assert tapes.all == []
    twins.read([(branch, TOKENS[-1])])
    assert len(tapes.all) == 1


def test_rows_that_are_too_long_go_without(
    plain: TorchEngine, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("cuda_graphs", "torch_decoder"):
        monkeypatch.setattr(f"egolive.assistant.backends.torch.{module}.COLUMNS", (256, 512))
    twins = Twins([TorchDecoder(plain.backend()[1].model, tapes), plain.backend()[1]], seed=2)
    for length, captured in ((100, 1), (400, 1), (370, 2)):
        (branch,) = twins.branches(twins.row(length), 1)
        twins.read([(branch, 2)])
        assert len(tapes.all) == captured


def test_where_capturing_fails_the_same_steps_run_as_they_are(
    plain: TorchEngine, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(step: Callable[[], None]) -> Callable[[], None]:
        step()
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    decoder = TorchDecoder(plain.backend()[1].model, fails)
    twins = Twins([decoder, plain.backend()[1]], seed=3)
    (branch,) = twins.branches(twins.row(30), 1)
    with caplog.at_level(logging.WARNING):
        for count in (1, 3, 1):
            twins.read([(branch, count)])
    (record,) = caplog.records
    assert record.getMessage().endswith("operation not permitted when stream is capturing")
    assert steps_of(decoder).capture is uncaptured


def test_a_step_that_fails_has_read_nothing(plain: TorchEngine) -> None:
    failing = [False]

    def capture(step: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            step()
            if failing[0]:
                raise torch.OutOfMemoryError("CUDA out of memory")

        return run

    decoder = TorchDecoder(plain.backend()[1].model, capture)
    twins = Twins([decoder, plain.backend()[1]], seed=4)
    (branch,) = twins.branches(twins.row(30), 1)
    twins.read([(branch, 2)])
    failing[0] = True
    with pytest.raises(EngineError, match="out of memory while reading"):
        decoder.forward([ForwardInput(branch[0], torch.ones(2, 64), np.zeros((3, 2), dtype=np.int64))])
    failing[0] = False
    assert branch[0].length == 2
    twins.read([(branch, 2)])


def test_numbers_that_are_none_do_not_stay_behind(twins: Twins, decoder: TorchDecoder) -> None:
    twins.row(30)
    broken = decoder.new_cache()
    decoder.forward(
        [ForwardInput(broken, torch.full((300, 64), torch.nan), np.zeros((3, 300), dtype=np.int64))]
    )
    (logits,) = decoder.forward(
        [ForwardInput(broken.fork(), torch.ones(1, 64), np.zeros((3, 1), dtype=np.int64))]
    )
    assert logits.isnan().all()
    twins.read([(twins.branches(0, 1)[0], 2)])


def test_rows_that_are_gone_are_not_held(decoder: TorchDecoder) -> None:
    row = decoder.new_cache()
    decoder.forward([ForwardInput(row, torch.ones(3, 64), np.zeros((3, 3), dtype=np.int64))])
    decoder.forward([ForwardInput(row.fork(), torch.ones(1, 64), np.zeros((3, 1), dtype=np.int64))])
    gone = weakref.ref(row)
    del row
    assert gone() is None


def test_on_a_cpu_there_are_none(plain: TorchEngine) -> None:
    assert plain.backend()[1].static is None


@pytest.mark.parametrize("graphs", [True, False])
def test_the_switch_reaches_the_engine(graphs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("egolive.assistant.load_local.load_engine", lambda *_, **given: asked.append(given))
    ModelOptions(graphs=graphs).load()
    assert asked[0]["graphs"] is graphs
