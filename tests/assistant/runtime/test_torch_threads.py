"""CPU threads belong to the engine that was given them: not to other engines, threads or the program."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from streams import STREAM, ask

from egolive.assistant.load_local import load_engine
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.runtime.torch_threads import torch_threads
from egolive.assistant.schema.engine import Vision
from egolive.streaming.errors import EngineError

T = TypeVar("T")


def in_a_thread(work: Callable[[], T]) -> T:
    """In one that has not used torch before."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(30)


def watched(engine: LocalEngine[Any, Any], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Torch's threads at each pass of an engine's tower and decoder, from now on."""
    seen: list[int] = []
    for half, name in zip(engine.backend(), ("encode", "forward"), strict=True):
        known = getattr(half, name)

        def note(*arguments: Any, known: Any = known) -> Any:
            seen.append(torch.get_num_threads())
            return known(*arguments)

        monkeypatch.setattr(half, name, note)
    return seen


def test_an_engine_works_with_its_threads_and_leaves_those_of_the_program(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    one, two, free = (
        load_engine(str(tiny_checkpoint), device="cpu", threads=count) for count in (1, 3, None)
    )
    seen = [watched(engine, monkeypatch) for engine in (one, two, free)]
    window = STREAM[3][0]
    with one.session() as first, two.session() as second, free.session() as third:
        for session in (first, second, third):
            session.see(window)
            assert torch.get_num_threads() == before
        asked = [session.ask([ask(window, "What comes next?")]) for session in (first, second, third)]
        # In turns, so that each is in the middle of its answer while the others work.
        for _ in range(4):
            for deltas in asked:
                next(deltas)
                assert torch.get_num_threads() == before
        asked[0].close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == before
    assert [set(counts) for counts in seen] == [{1}, {3}, {before}]
    assert min(map(len, seen)) >= 8
    assert in_a_thread(torch.get_num_threads) == before


def test_engines_in_several_threads_work_with_their_own_at_once(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    engines = [load_engine(str(tiny_checkpoint), device="cpu", threads=count) for count in (1, 2, 3, 4)]
    seen = [watched(engine, monkeypatch) for engine in engines]
    begin = threading.Barrier(len(engines))

    def work(engine: LocalEngine[Any, Any]) -> int:
        begin.wait(30)
        with engine.session() as session:
            for window, picture in STREAM[:4]:
                list(session.ask([ask(window, "What comes next?"), ask(picture, "What?")]))
        return torch.get_num_threads()

    with ThreadPoolExecutor(len(engines)) as pool:
        after = list(pool.map(work, engines, timeout=120))
    assert [set(counts) for counts in seen] == [{1}, {2}, {3}, {4}]
    assert after == [before] * 4
    assert torch.get_num_threads() == before
    assert in_a_thread(torch.get_num_threads) == before


def test_a_thread_that_comes_from_the_block_of_another_gets_the_number_from_outside() -> None:
    before = torch.get_num_threads()

    def inside() -> tuple[int, int]:
        with torch_threads(before + 2):
            within = torch.get_num_threads()
        return within, torch.get_num_threads()

    with torch_threads(before + 1):
        assert in_a_thread(inside) == (before + 2, before)
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    assert in_a_thread(torch.get_num_threads) == before


def test_blocks_within_blocks_and_none_at_all() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        with torch_threads(before + 2):
            assert torch.get_num_threads() == before + 2
        assert torch.get_num_threads() == before + 1
        with torch_threads(None):
            assert torch.get_num_threads() == before + 1
        with torch_threads(before + 1), torch_threads(before + 1):
            pass
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_a_pass_that_fails_puts_the_threads_back(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    engine = load_engine(str(tiny_checkpoint), device="cpu", threads=before + 1)

    def fails(*_: object) -> None:
        raise EngineError(f"with {torch.get_num_threads()} threads")

    monkeypatch.setattr(engine.backend()[0], "encode", fails)
    picture = Vision((np.zeros((56, 84, 3), np.uint8),), 56, 84, keys=(0,))
    with engine.session() as session:
        with pytest.raises(EngineError, match=f"with {before + 1} threads"):
            session.see(picture)
        with pytest.raises(EngineError, match=f"with {before + 1} threads"):
            list(session.ask([ask(picture, "What?")]))
    assert torch.get_num_threads() == before
