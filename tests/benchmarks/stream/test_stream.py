"""`egolive bench stream`: every baseline is asked and says the same, and what is counted is whole."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.cli import main as cli
from egolive.assistant.load_local import load_engine
from egolive.assistant.model.media import bundled_clip
from egolive.assistant.schema.engine import FULL_REUSE, Reuse
from egolive.assistant.schema.profiles import NANO, save_profile
from egolive.benchmarks.stream.baseline_runner import (
    QUESTIONS,
    SETS,
    Hop,
    fair_steps,
    hops_of,
    load_images,
    places_of,
)
from egolive.benchmarks.stream.baselines import EngineBaseline, Said, TransformersBaseline, compare
from egolive.benchmarks.stream.peers_report import verdict_of
from egolive.benchmarks.stream.random_weights import STRUCTURES, random_checkpoint, random_engine
from egolive.benchmarks.stream.stream_bench import play_all
from egolive.benchmarks.stream.stream_report import SWITCHES, drafted

LENGTH = 2
HOPS = 4
TOKENS = 6
SMALL = replace(STRUCTURES["2b"], width=256, mlp_width=256, heads=2, kv_heads=1, vocabulary=1024)
"""Of random weights: a model that is made in a moment."""
SLICE = 2 * 3
"""Tokens of a slice of 56 x 84 pixels."""


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that sees small pictures and is asked nano's questions."""
    copied: Path = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("bench") / "tiny")
    save_profile(replace(NANO, picture=(56, 84)), copied)
    return copied


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[TorchEngine]:
    engine = load_engine(str(folder), device="cpu", dtype="fp32")
    assert isinstance(engine, TorchEngine)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def hops(engine: TorchEngine) -> list[Hop]:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (60, 90, 3), dtype=np.uint8) for _ in range(2 * (LENGTH - 1 + HOPS))]
    return list(hops_of(engine, images, slices=LENGTH, max_tokens=TOKENS))


@pytest.fixture(scope="module")
def files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run of the command leaves behind, its output among it."""
    out = tmp_path_factory.mktemp("out")
    options = ["--slices", str(LENGTH), "--hops", str(HOPS), "--max-tokens", str(TOKENS)]
    names = ["--json", str(out / "figures.json"), "--plot", str(out / "plot.png")]
    with redirect_stdout(io.StringIO()) as printed:
        assert cli.call(["bench", "stream", "--model", str(folder), *options, *names]) == 0
    (out / "printed").write_text(printed.getvalue())
    return out


@pytest.fixture(scope="module")
def figures(files: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((files / "figures.json").read_text())
    return found


def test_the_json_line_holds_what_others_rely_on(files: Path, figures: dict[str, Any]) -> None:
    keys = """speedup_a speedup_b speedup_c windows hops audit_errors audit_ties slices_encoded slices_used
    prompt_tokens_reused prompt_tokens draft_accepted gains draft_static draft_changing machine versions
    commit command"""
    assert set(keys.split()) <= set(figures)
    assert set(figures["gains"]) == set(SWITCHES)
    assert json.loads((files / "printed").read_text()) == figures
    with PillowImage.open(files / "plot.png") as drawn:
        assert min(drawn.size) >= 300


def test_all_baselines_say_the_same_at_every_hop(figures: dict[str, Any]) -> None:
    alone = [f"{switch} alone" for switch in SWITCHES]
    without = [f"without {switch}" for switch in SWITCHES]
    sides = ["all", "none", *alone, *without, "b", "live", "live without draft"]
    assert figures["audits"] == {name: {"same": HOPS * len(QUESTIONS)} for name in sorted(sides)}
    assert (figures["audit_errors"], figures["audit_ties"]) == (0, 0)
    assert figures["windows"] == figures["hops"] == HOPS


def test_slices_and_tokens_are_counted_over_whole_cycles(
    engine: TorchEngine, figures: dict[str, Any], hops: list[Hop]
) -> None:
    lengths = [hop.length for hop in hops[LENGTH - 1 :]]
    assert lengths == [2, 3, 2, 3]
    assert figures["slices_encoded"] == HOPS
    assert figures["slices_used"] == len(QUESTIONS) * sum(lengths)
    assert figures["live"]["slices_encoded"] == 2 * HOPS
    assert figures["live"]["slices_used"] == sum(lengths) + 3 * HOPS
    # Read at each hop: a slice, and what follows it in each question; every other slice once more for the
    # window that takes over.
    tails = [
        len(engine.tokenizer.encode(str(request.prompt.parts[-1]))) for request in hops[0].sets["window"]
    ]
    anew = figures["prompt_tokens"] - figures["prompt_tokens_reused"]
    assert anew == HOPS * sum(tails) + (HOPS + HOPS // 2) * SLICE


def test_a_batch_on_one_encoding_says_what_generate_says_one_by_one(
    engine: TorchEngine, hops: list[Hop]
) -> None:
    singly, batch = TransformersBaseline(engine), TransformersBaseline(engine, "batch")
    encoded = []
    handle = engine.backend()[1].model.model.visual.register_forward_hook(lambda *_: encoded.append(1))
    try:
        for hop in hops[:2]:
            asked = hop.sets["window"]
            expected = singly.answer("window", asked)
            assert len(encoded) == len(QUESTIONS)
            found = batch.answer("window", asked)
            assert len(encoded) == len(QUESTIONS) + 1
            assert [said.tokens for said in found.said] == [said.tokens for said in expected.said]
            for one, other in zip(expected.said, found.said, strict=True):
                assert other.margins == pytest.approx(one.margins, abs=1e-4)
            assert 0 < found.encoding.wall < found.cost.wall
            encoded.clear()
    finally:
        handle.remove()
    # Rows are padded only where questions differ in length.
    texts = [str(request.prompt.parts[-1]) for request in hops[0].sets["window"]]
    assert len({len(engine.tokenizer.encode(text)) for text in texts}) > 1


def test_generate_says_what_the_engine_says_under_the_same_grammar(
    engine: TorchEngine, hops: list[Hop]
) -> None:
    naive, ours = TransformersBaseline(engine), EngineBaseline(engine)
    said = []
    for hop in hops:
        for kind in SETS:
            mine, theirs = (baseline.answer(kind, hop.sets[kind]) for baseline in (ours, naive))
            assert [one.tokens for one in mine.said] == [one.tokens for one in theirs.said]
            for one, other in zip(mine.said, theirs.said, strict=True):
                assert other.margins == pytest.approx(one.margins, abs=1e-4)
            assert mine.tokens == theirs.tokens == sum(len(one.tokens) for one in mine.said)
            for found in (mine, theirs):
                assert 0 < found.first_token <= found.cost.wall
            said += [one.tokens for one in mine.said]
    ours.close()
    boxes = [tokens for number, tokens in enumerate(said) if number % len(QUESTIONS)]
    starts = {engine.tokenizer.decode([tokens[0]]) for tokens in boxes}
    assert all("none".startswith(start) or start == "<|box_start|>" for start in starts)
    # They depend on what is seen.
    assert len({token for tokens in said for token in tokens}) >= 8
    assert len(set(said)) >= 10


@pytest.mark.parametrize("reuse", [FULL_REUSE, replace(FULL_REUSE, slices=False), Reuse(prefix=False)])
def test_a_session_that_keeps_up_finds_what_one_finds_that_always_answers(
    engine: TorchEngine, hops: list[Hop], reuse: Reuse
) -> None:
    always, seldom = EngineBaseline(engine, reuse), EngineBaseline(engine, reuse)
    seldom.answer("window", hops[0].sets["window"])
    for hop in hops[:-1]:
        said = always.answer("window", hop.sets["window"]).said
        seldom.keep_up("window", hop.window, hop.sets["window"], said)
    for baseline in (always, seldom):
        baseline.usage.clear()
        baseline.answer("window", hops[-1].sets["window"])
    assert seldom.usage == always.usage
    assert always.usage["draft_accepted"] > 0
    always.close()
    seldom.close()


def test_a_baseline_that_says_something_else_is_an_error(
    engine: TorchEngine, hops: list[Hop], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = TransformersBaseline._in_batch

    def wrong(self: TransformersBaseline, requests: Any) -> Any:
        said = right(self, requests)
        return [Said((7, *said[0].tokens[1:]), said[0].margins), *said[1:]]

    monkeypatch.setattr(TransformersBaseline, "_in_batch", wrong)
    measured, _ = play_all(engine, hops, slices=LENGTH, naive_every=HOPS, gains=False)
    assert measured.audits["window", "b"] == {"error": 1, "same": 3}
    counts = {name: len(found) for (_, name), found in measured.answers.items()}
    seldom = dict.fromkeys(("a", "b", "c", "without draft", "live without draft"), 1)
    assert counts == seldom | {"all": HOPS, "live": HOPS}
    assert sum(measured.audits["window", "all"].values()) == len(QUESTIONS)


def test_the_intent_that_both_sets_ask_is_generated_once_a_hop(
    engine: TorchEngine, hops: list[Hop], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    generate = TransformersBaseline._generate

    def counted(self: TransformersBaseline, requests: Any, inputs: Any, **settings: Any) -> Any:
        asked.append([request.key for request in requests])
        return generate(self, requests, inputs, **settings)

    monkeypatch.setattr(TransformersBaseline, "_generate", counted)
    play_all(engine, hops, slices=LENGTH, naive_every=HOPS, gains=False)
    singly = [keys[0] for keys in asked if len(keys) == 1]
    # At the first hop, which warms up, and at the one that is measured.
    assert {key: singly.count(key) for key in QUESTIONS} == {
        key: 2 if key.task == "intent" else 4 for key in QUESTIONS
    }


@pytest.mark.parametrize(
    ("tokens", "margin", "expected"),
    [
        ((1, 2, 3), 5.0, "same"),
        ((1, 4, 3), 5e-4, "tie"),
        ((1, 4, 3), 5e-3, "error"),
        ((1, 2), 5e-4, "error"),
        ((1, 2, 3, 4), 5e-4, "error"),
    ],
)
def test_answers_that_part_where_tokens_are_almost_as_likely_are_ties(
    tokens: tuple[int, ...], margin: float, expected: str
) -> None:
    assert compare(Said((1, 2, 3), (9.0, margin, 9.0)), Said(tokens, (9.0,) * len(tokens)), 1e-3) == expected


@pytest.mark.parametrize("slices", [2, 3, 5, 8])
def test_baselines_that_answer_seldom_see_windows_of_the_mean_length(slices: int) -> None:
    lengths = [slices + hop % slices for hop in range(4 * slices)]
    steps = fair_steps(slices, 4 * slices)
    assert {1, slices, 2 * slices} <= set(steps)
    for step in steps:
        found = [lengths[place] for place in places_of(len(lengths), step)]
        assert np.mean(found) == np.mean(lengths)


def test_a_clip_that_is_too_short_is_played_there_and_back() -> None:
    images = load_images(bundled_clip(), 120)
    length = next(n for n in range(2, 119) if np.array_equal(images[n + 1], images[n - 1]))
    assert length >= 40
    assert all(np.array_equal(images[length + n], images[length - n]) for n in range(1, 20))
    assert len(images) == 120


@pytest.mark.parametrize(
    "options",
    [
        ["--slices", "1"],
        ["--hops", "24"],
        ["--naive-every", "3"],
        ["--layers", "2"],
        ["--model", "2b", "--layers", "29"],
        ["--json", "/nowhere/figures.json"],
    ],
)
def test_settings_that_cannot_work_are_told_in_one_line(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["bench", "stream", *options]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_random_weights_read_prompts_as_long_as_the_real_ones() -> None:
    small = replace(SMALL, layers=1, tower_blocks=1)
    engine = random_engine("small", small, questions=QUESTIONS, device=torch.device("cpu"))
    images = [np.full((252, 448, 3), 80 * n, np.uint8) for n in range(2)]
    hop = next(hops_of(engine, images, slices=LENGTH, max_tokens=TOKENS))
    # Counted with Qwen2-VL's own vocabulary, two markers round the video included.
    texts = [
        sum(len(engine.tokenizer.encode(str(part))) for part in request.prompt.parts[::2])
        for request in hop.sets["window"]
    ]
    assert texts == [38, 79, 79, 82]
    with engine.session() as session:
        assert len({delta.token for delta in session.ask(hop.sets["window"])}) >= 3
        assert session.usage()["vision_tokens"] == 4 * 144
    model = engine.backend()[1].model
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert STRUCTURES["2b"].layers == 28


def test_a_checkpoint_of_random_weights_can_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STRUCTURES, "2b", SMALL)
    random_checkpoint("2b", tmp_path / "random", layers=1, vision_layers=1)
    engine = load_engine(str(tmp_path / "random"), device="cpu", dtype="fp32")
    assert isinstance(engine, TorchEngine)
    assert len(engine.backend()[1].text_model.layers) == 1
    assert engine.profile.picture == (252, 448)
    engine.close()


def test_shares_and_verdicts_of_nothing_are_unknown() -> None:
    assert drafted(Counter()) == {"of_proposed": None, "of_said": None}
    assert drafted(Counter(draft_accepted=1, draft_proposed=2, completion_tokens=4)) == {
        "of_proposed": 0.5,
        "of_said": 0.25,
    }
    costs = {"answer_set_ms": 1.0, "answer_set_cpu_ms": 1.0, "first_token_ms": 1.0, "tok_s": 1.0, "audit": {}}
    ours = {"name": "a", "kind": "egolive", "model": "nano", "peak_mb": 1.0, "live": costs, "window": costs}
    assert verdict_of([ours])["ahead_of_all"] == {"window": None, "live": None}
