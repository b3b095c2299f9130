"""Passes of limited size: cut as they must be, and the same logits as in one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from egolive.assistant.backends.onnx.graph_limits import Sizes, passes
from egolive.assistant.model.engine_folder import Shapes
from egolive.assistant.runtime.backend import ForwardInput
from egolive.streaming.errors import EngineError

SHAPES = Shapes(
    height=252, width=448, hidden=16, layers=2, kv_heads=2, head_width=8, vocabulary=50, context=4096
)


def chunk(row: Any, count: int, keep: int) -> ForwardInput:
    """A chunk whose embeddings are its tokens' numbers."""
    numbers = torch.arange(count, dtype=torch.float32)[:, None]
    return ForwardInput(row, numbers, np.tile(np.arange(count), (3, 1)), min(keep, count))


def row(used: int) -> Any:
    """Something that is a row, with so many columns in use."""
    found = SimpleNamespace(owners=np.zeros(used), number=object())
    return type("Cache", (), {"owners": found.owners, "cache": property(lambda self: self)})()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=6),
    st.lists(st.integers(0, 30), min_size=4, max_size=4),
    st.builds(Sizes, tokens=st.integers(1, 20), columns=st.just(300), kept=st.integers(1, 6)),
)
def test_passes_hold_every_token_once_and_in_order_within_the_limits(
    asked: list[tuple[int, int, int]], used: list[int], sizes: Sizes
) -> None:
    rows = [row(count) for count in used]
    chunks = [chunk(rows[at], count, keep) for at, count, keep in asked]
    found: list[list[float]] = [[] for _ in chunks]
    kept = [0 for _ in chunks]
    columns = {one: len(one.owners) for one in rows}
    for one in passes(chunks, sizes):
        assert sum(len(part.embeddings) for _, part in one) <= sizes.tokens
        assert sum(part.keep for _, part in one) <= sizes.kept
        assert sum(columns[each] for each in {part.onto for _, part in one}) <= sizes.columns
        assert len({place for place, _ in one}) == len(one)
        for place, part in one:
            assert part.onto is chunks[place].onto
            assert part.positions[0].tolist() == part.embeddings[:, 0].tolist()
            found[place] += part.embeddings[:, 0].tolist()
            kept[place] += part.keep
            columns[part.onto] += len(part.embeddings)
    assert found == [list(range(len(part.embeddings))) for part in chunks]
    assert kept == [part.keep for part in chunks]


def test_rows_that_are_too_long_together_are_read_one_after_the_other() -> None:
    rows = [row(60), row(60)]
    found = list(passes([chunk(one, 1, 1) for one in rows], Sizes(columns=100)))
    assert [[place for place, _ in one] for one in found] == [[0], [1]]
    assert len(list(passes([chunk(one, 1, 1) for one in rows], Sizes(columns=120)))) == 1


def test_a_row_that_is_too_long_alone_is_told_in_one_line() -> None:
    with pytest.raises(EngineError, match="at most 100 tokens") as caught:
        list(passes([chunk(row(101), 1, 1)], Sizes(columns=100)))
    assert "\n" not in str(caught.value)


def test_ranges_grow_from_the_smallest_shape_to_the_largest() -> None:
    reading, step = Sizes().ranges(SHAPES)
    assert set(reading) == set(step) == {
        "embeddings", "positions", "attention_bias", "kept",
        "past.0.key", "past.0.value", "past.1.key", "past.1.value",
    }  # fmt: skip
    for ranges in (reading, step):
        for least, usual, most in ranges.values():
            assert all(
                0 < low <= middle <= high for low, middle, high in zip(least, usual, most, strict=True)
            )
        for at in range(3):
            new, past = ranges["embeddings"][at][1], ranges["past.0.key"][at][1]
            assert ranges["attention_bias"][at] == (1, 1, new, past + new)
            assert ranges["positions"][at] == (3, 1, new)
            assert ranges["kept"][at][0] <= new
    # Two slices of 448x252 are 2 x 144 tokens.
    assert reading["embeddings"] == ((1, 1, 16), (1, 288, 16), (1, 512, 16))
    assert step["embeddings"] == ((1, 1, 16), (1, 4, 16), (1, 16, 16))
    assert reading["past.0.key"][2] == (1, 4096, 2, 8)


def test_ranges_of_small_pictures_and_limits_stay_in_order() -> None:
    for least, usual, most in Sizes(tokens=8, columns=1, kept=2, step=1).ranges(SHAPES)[0].values():
        assert all(0 < low <= mid <= high for low, mid, high in zip(least, usual, most, strict=True))
    tiny = SHAPES.model_copy(update={"height": 0, "width": 0})
    assert Sizes().ranges(tiny)[0]["embeddings"][1] == (1, 1, 16)
