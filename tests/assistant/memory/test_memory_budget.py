"""A memory that may take so many bytes forgets the oldest moments first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from egolive.assistant.memory.memory_file import FILE
from egolive.assistant.memory.moment_store import Limits, Memory, Moment

MOST = 1_000_000


def moment(second: int, size: int = 20_000) -> Moment:
    picture = np.random.default_rng(second).bytes(size)
    return Moment(at=1e9 + second, time=float(second), kind="seen", text=f"cup {second}", picture=picture)


def test_the_file_stays_within_its_budget(tmp_path: Path) -> None:
    with Memory(tmp_path, Limits(total_bytes=MOST)) as memory:
        for second in range(120):
            assert memory.add(moment(second))
        assert memory.newest(limit=1)[0].time == 119.0
        assert 30 < memory.sizes()["moments"] < 60
    assert (tmp_path / FILE).stat().st_size < MOST * 1.05


def test_a_smaller_budget_shortens_what_is_there(tmp_path: Path) -> None:
    with Memory(tmp_path) as memory:
        for second in range(120):
            memory.add(moment(second))
    assert (tmp_path / FILE).stat().st_size > 2 * MOST
    with Memory(tmp_path, Limits(total_bytes=MOST)) as memory:
        assert memory.search("119")
        assert not memory.search("0")
    assert (tmp_path / FILE).stat().st_size <= MOST
