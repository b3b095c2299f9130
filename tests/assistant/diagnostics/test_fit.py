"""What fits and how fast it will be, against sums that are worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from measured import speeds

from egolive.assistant.diagnostics.fit import (
    FORMS,
    Form,
    Memory,
    Seen,
    Work,
    best_fit,
    costs,
    fits,
    memory_of,
)
from egolive.assistant.diagnostics.structures import EGOTHINKER, SMALLER, STRUCTURES
from egolive.assistant.model.model_sizes import ModelSizes
from egolive.assistant.schema.profiles import EGOTHINKER_V1, NANO

TINY = ModelSizes(
    width=64,
    mlp_width=128,
    layers=2,
    heads=4,
    kv_heads=2,
    vocabulary=448,
    tied=False,
    tower_width=64,
    tower_mlp_width=128,
    tower_blocks=2,
    tower_heads=4,
    patch=1176,
    stored_bytes=2,
)
TEXT, HEAD = 2 * (2 * 64 * 96 + 3 * 64 * 128), 448 * 64
TOWER = 2 * (4 * 64 * 64 + 2 * 64 * 128) + 1176 * 64 + 256 * (256 + 64)
SMALL = 2 * (3 * 64 + 2 * 32) + 64 + 2 * (9 * 64 + 128) + 6 * 64 + 64
CPU = {form.name: form for form in FORMS["cpu"]}
CACHE = 2 * 2 * 32 * 4096 * 4
"""Keys and values of 4,096 tokens in fp32."""
WORK = 900_000_000


def test_memory_is_that_of_the_weights_the_cache_and_the_work() -> None:
    assert (TINY.text_linear, TINY.head, TINY.tower, TINY.small) == (TEXT, HEAD, TOWER, SMALL)
    whole = TEXT + 2 * HEAD + TOWER + SMALL
    assert memory_of(TINY, CPU["fp32"]) == Memory(4 * whole + CACHE + WORK, 0)
    # As it is stored, in its files' pages; the last layer once more in fp32.
    assert memory_of(TINY, CPU["bf16"]) == Memory(4 * HEAD + CACHE + WORK, 2 * whole)
    stored_otherwise = memory_of(replace(TINY, stored_bytes=4), CPU["bf16"])
    assert stored_otherwise == Memory(2 * whole + 4 * HEAD + CACHE + WORK, 0)
    # Half a byte and a scale of 4 bytes for each 128 weights; a byte for tower and last layer.
    int4 = memory_of(TINY, CPU["int4"])
    assert int4.anonymous == round(TEXT * 0.53125 + 1.03125 * (HEAD + TOWER + SMALL) + CACHE + WORK)
    assert memory_of(replace(TINY, tied=True), CPU["fp32"]).anonymous == 4 * (whole - HEAD) + CACHE + WORK


def test_on_a_gpu_nothing_is_mapped() -> None:
    for form in FORMS["cuda"]:
        assert memory_of(TINY, form, cuda=True).mapped == 0


@pytest.mark.parametrize(
    ("model", "form", "gigabytes"),
    # What was seen at these sizes: nf4 of 7B 11.8 GB, int4 of 7B 5.8 GB; bf16 shards of 16.6 GB.
    [(EGOTHINKER, "nf4", 11.8), (EGOTHINKER, "int4", 5.8)],
)
def test_memory_is_near_what_was_measured(model: str, form: str, gigabytes: float) -> None:
    assert memory_of(STRUCTURES[model], CPU[form]).anonymous / 1e9 == pytest.approx(gigabytes, rel=0.15)
    assert memory_of(STRUCTURES[EGOTHINKER], CPU["bf16"]).mapped / 1e9 == pytest.approx(16.6, rel=0.01)


def test_a_pass_takes_the_sum_of_its_products() -> None:
    # A nanosecond a weight and row, so two operations a nanosecond; nothing for what is moved.
    work = Work(TINY, CPU["fp32"], speeds(1e-9))
    linear = (2 * (4 * 64 * 64 + 2 * 64 * 128) + 1176 * 64) * 80 + 256 * (256 + 64) * 20
    attention = 2 * 4 * 80 * 80 * 64 / 2
    assert work.encode(80) == pytest.approx((linear + attention) * 1e-9, rel=1e-6)
    attention = 2 * 4 * 20 * 50 * 64 / 2
    assert work.prefill(20, 50) == pytest.approx((TEXT * 20 + attention) * 1e-9, rel=1e-6)
    fixed = work.step(0, 1) - (TEXT + HEAD) * 1e-9
    assert 0 < fixed < 0.01
    # Bytes that are moved: keys and values of what was read, in both layers.
    moved = Work(TINY, CPU["fp32"], speeds(1e-9, copy=1e9)).step(100, 1) - work.step(100, 1)
    assert moved == pytest.approx(2 * 100 * 2 * 32 * 4 / 1e9, rel=1e-6)


def test_a_window_is_words_and_boxes_and_grows_with_what_is_seen() -> None:
    small = costs(TINY, CPU["int4"], speeds(1e-9), Seen(80, 80, 8))
    large = costs(TINY, CPU["int4"], speeds(1e-9), Seen(80, 320, 8))
    assert small is not None
    assert large is not None
    assert small.window == small.words + small.boxes
    assert large.words == small.words
    assert large.boxes > small.boxes
    assert Seen.by(NANO, built=True) == Seen(160, 160, 4)
    assert Seen.by(EGOTHINKER_V1, built=True) == Seen(576, 576, 8)
    # As it is, a checkpoint sees pictures at up to 451,584 pixels; an engine folder has one size.
    assert Seen.by(EGOTHINKER_V1, built=False).picture_patches > 576


def test_what_was_not_measured_is_not_known() -> None:
    found = fits(TINY, NANO, device="cpu", free=10**10, speeds=speeds(without=("int8-128",)))
    known = {fit.form.name: fit.costs is not None for fit in found}
    # The tower and the last layer of them are in int8.
    assert known == {
        "fp32": True,
        "bf16": True,
        "int8": False,
        "awq-int4": False,
        "int4": False,
        "nf4": True,
    }
    assert {fit.pace for fit in found if fit.costs is None} == {"not known"}
    assert all(fit.costs is None for fit in fits(TINY, NANO, device="cpu", free=1, speeds=None))


def fit_of(form: Form, need: int, free: int, weight: float) -> object:
    (found,) = (
        fit
        for fit in fits(STRUCTURES[SMALLER], NANO, device="cpu", free=free, speeds=speeds(weight))
        if fit.form == form
    )
    return replace(found, memory=Memory(need, 0))


def test_what_is_missing_is_told_in_bytes() -> None:
    fit = fits(TINY, NANO, device="cpu", free=1_000_000, speeds=None)[0]
    assert fit.lacks == fit.memory.total - 1_000_000
    assert replace(fit, free=fit.memory.total).lacks == 0


def test_the_best_form_loses_least_where_it_is_live_and_is_fastest_elsewhere() -> None:
    sizes = STRUCTURES[SMALLER]
    live = fits(sizes, NANO, device="cpu", free=10**11, speeds=speeds(1e-12))
    assert {fit.pace for fit in live} == {"live"}
    best = best_fit(live)
    assert best is not None
    assert best.form.name == "fp32"
    slow = fits(sizes, NANO, device="cpu", free=10**11, speeds=speeds(1e-9))
    assert {fit.pace for fit in slow} == {"too slow"}
    assert best_fit([]) is None
    # Only int8 and what is smaller fits; AWQ is never chosen by itself.
    tight = fits(sizes, NANO, device="cpu", free=memory_of(sizes, CPU["int8"]).total, speeds=speeds(1e-12))
    best = best_fit(tight)
    assert best is not None
    assert best.form.name == "int8"
    best = best_fit(tight, without=("int8", "int4", "nf4"))
    assert best is not None
    assert best.form.name == "awq-int4"
    assert best_fit(fits(sizes, NANO, device="cpu", free=10**8, speeds=speeds())) is None
