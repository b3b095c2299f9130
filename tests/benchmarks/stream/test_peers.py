"""`egolive bench peers`: all baselines are asked and say the same, and ratios are what they claim."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine, FakeSession
from PIL import Image as PillowImage
from transformers import CompileConfig

from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.cli import main as cli
from egolive.assistant.load_local import load_engine
from egolive.assistant.model.prompt_tokens import lay_out
from egolive.assistant.schema.engine import Delta, Request
from egolive.assistant.schema.profiles import NANO, save_profile
from egolive.benchmarks.stream import baselines, peer_worker, peers
from egolive.benchmarks.stream.baseline_runner import SETS, Hop, hops_of
from egolive.benchmarks.stream.baselines import (
    SETTINGS,
    Answers,
    Baseline,
    Cost,
    EngineBaseline,
    Said,
    ServerBaseline,
    TransformersBaseline,
    groups_of,
    shared_tokens,
)
from egolive.benchmarks.stream.peer_worker import Plan, Worker
from egolive.streaming.errors import EngineError

TOKENS = 5
SLICES = 2


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copied: Path = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("peers") / "tiny")
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
    images = [rng.integers(0, 256, (60, 90, 3), dtype=np.uint8) for _ in range(8)]
    return list(hops_of(engine, images, slices=SLICES, max_tokens=TOKENS))


@pytest.fixture(scope="module")
def expected(engine: TorchEngine, hops: list[Hop]) -> dict[str, list[list[Said]]]:
    """What the engine says, by set, at each hop that is compared."""
    ours = EngineBaseline(engine)
    said = {kind: [ours.answer(kind, hop.sets[kind]).said for hop in hops] for kind in SETS}
    ours.close()
    return {kind: found[1:3] for kind, found in said.items()}


def check(baseline: Baseline, hops: Sequence[Hop], expected: dict[str, list[list[Said]]]) -> None:
    for kind in SETS:
        for hop, said in zip(hops[1:3], expected[kind], strict=True):
            found = baseline.answer(kind, hop.sets[kind])
            assert [one.tokens for one in found.said] == [one.tokens for one in said]
            for one, other in zip(found.said, said, strict=True):
                assert one.margins == pytest.approx(other.margins, abs=1e-3)
            assert found.first_token > 0


@pytest.mark.parametrize("setting", SETTINGS)
def test_transformers_says_the_same_in_every_setting(
    engine: TorchEngine,
    hops: list[Hop],
    expected: dict[str, list[list[Said]]],
    setting: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is compiled is the same; it takes half a minute.
    monkeypatch.setattr(baselines, "_compiling", lambda _: CompileConfig())
    requests = [request for hop in hops for request in hop.sets["window"]]
    longest = max(len(lay_out(request.prompt, engine.tokenizer)) for request in requests) + TOKENS
    check(TransformersBaseline(engine, setting, longest), hops, expected)
    # They depend on what is seen, and are not one token again and again.
    said = [one.tokens for kind in SETS for found in expected[kind] for one in found]
    assert len({token for tokens in said for token in tokens}) >= 8
    assert len(set(said)) >= 5


@pytest.mark.parametrize("setting", ["prefix kept", "one by one"])
def test_onnxruntime_alone_says_the_same(
    folder: Path,
    hops: list[Hop],
    expected: dict[str, list[list[Said]]],
    setting: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from egolive.quantize.build import Recipe, build_onnx

    exported = tmp_path_factory.getbasetemp() / "peers-onnx"
    if not exported.exists():
        build_onnx(str(folder), exported, Recipe())
    plan = Plan(name="", kind="onnx", setting=setting, model=str(exported), source="", max_tokens=TOKENS)
    baseline = peer_worker.make_baseline(plan, hops, load_engine(str(exported), device="cpu"))
    check(baseline, hops, expected)
    baseline.close()


def test_questions_about_the_same_picture_stand_together(hops: list[Hop]) -> None:
    assert groups_of(hops[1].sets["window"]) == [[0, 1, 2, 3]]
    assert groups_of(hops[1].sets["live"]) == [[0], [1, 2, 3]]


def test_each_prompt_keeps_a_token_of_its_own() -> None:
    assert shared_tokens([[1, 2, 3], [1, 2, 4]]) == 2
    assert shared_tokens([[1, 2], [1, 2, 4]]) == 1
    assert shared_tokens([[5, 6]]) == 1


def test_a_server_is_asked_for_words_and_counts_its_own_tokens(hops: list[Hop]) -> None:
    class Remote:
        """Says two words to each question."""

        def session(self) -> FakeSession:
            return FakeSession(FakeEngine(lambda _: "two words"))

    found = ServerBaseline(Remote()).answer("live", hops[0].sets["live"])  # type: ignore[arg-type]
    assert found.texts == ("two words",) * 4
    assert not found.said
    # The fake counts none: its pieces are counted, each answer's end among them.
    assert found.tokens == 4 * 4


def test_a_server_that_breaks_off_is_not_timed(hops: list[Hop]) -> None:
    class Broken(FakeSession):
        def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
            yield Delta(0, 0, "two ", None)
            yield Delta(0, 0, "", None, "broken", error="it broke off")

    class Remote:
        def session(self) -> FakeSession:
            return Broken(FakeEngine())

    with pytest.raises(EngineError, match="it broke off"):
        ServerBaseline(Remote()).answer("live", hops[0].sets["live"])  # type: ignore[arg-type]


def test_a_process_answers_the_hops_that_it_is_told(
    folder: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(
        name="", kind="egolive", model=str(folder), source=str(video), slices=SLICES, hops=4, max_tokens=3
    )
    orders = [{"kind": "window", "hop": 0}, {"kind": "live", "hop": 1}, {"kind": "memory"}]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(json.dumps(order) + "\n" for order in orders)))
    told: list[dict[str, Any]] = []
    peer_worker._serve(Plan(**json.loads(json.dumps(asdict(plan)))), told.append)
    begun, window, live, memory = told
    assert begun["load_s"] > 0
    assert memory["peak_mb"] > 10
    for found in (window, live):
        assert len(found["said"]) == 4
        assert found["tokens"] == sum(len(one["tokens"]) for one in found["said"])
        assert 0 < found["first_token"] <= found["cost"]["wall"]


@pytest.mark.robustness
def test_answers_come_from_the_process_as_they_were_given(folder: Path, video: Path) -> None:
    plan = Plan(
        name="", kind="egolive", model=str(folder), source=str(video), slices=SLICES, hops=2, max_tokens=3
    )
    worker = Worker(plan)
    found = worker.answer("live", 0)
    assert len(found.said) == 4
    assert found.tokens == sum(len(one.tokens) for one in found.said)
    assert found.cost.wall >= found.first_token > 0
    assert found.encoding == Cost(0.0, 0.0)
    worker.close()


class FakeWorker:
    """Answers at once, peers more slowly; int4 says something else, compiling is not possible."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.load_s, self.precision = plan, 1.0, "fp32"
        if "compiled" in plan.setting:
            raise EngineError("no compiler is installed")

    def answer(self, kind: str, hop: int) -> Answers:
        slow = 1 if self.plan.kind == "egolive" else 2 if "batch" in self.plan.setting else 3
        said = [Said((7, 8 if self.plan.model == "int4" else 9), (5.0, 5.0))]
        cost = Cost(wall=slow * 0.1, cpu=slow * 0.05)
        return Answers(said=said, cost=cost, first_token=0.01 * slow, tokens=2)

    def peak_mb(self) -> float:
        return 100.0 if self.plan.kind == "egolive" else 150.0

    def memory(self) -> dict[str, float] | None:
        return None

    def close(self) -> None: ...


def test_ratios_are_told_for_each_side_and_reasons_for_those_that_are_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "Worker", FakeWorker)
    monkeypatch.setattr("egolive.benchmarks.commands.check_model", lambda *_: None)
    files = ["--json", str(tmp_path / "peers.json"), "--plot", str(tmp_path / "peers.png")]
    assert cli.call(["bench", "peers", "--engine", "int4", *files]) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out.splitlines()[-1])
    sides = {side["name"]: side for side in figures["sides"]}
    compiled = "transformers, batch, static cache, compiled"
    assert sides[compiled]["skipped"] == "no compiler is installed"
    assert "no compiler is installed" in printed.err
    # An engine that says something else is no measure for those that say the same.
    assert figures["ours"] == "egolive, torch"
    assert sides["egolive, int4"]["live"]["audit"] == {"error": 4}
    assert sides["transformers, batch"]["live"]["audit"] == {"same": 4}
    assert figures["best"] == {"transformers": "transformers, batch"}
    assert figures["ahead_of_all"] == {"window": True, "live": True}
    ratio = figures["ratios"]["transformers, one by one"]
    assert ratio["live"] == {"answer_set": 3.0, "answer_set_cpu": 3.0, "first_token": 3.0, "tok_s": 3.0}
    assert ratio["memory"] == 1.5
    assert figures["same_backend"]["transformers, one by one"] == ratio
    # Ours answer all 16 hops of a cycle, peers at one of four.
    assert sides["egolive, torch"]["live"]["sets"] == 16
    assert sides["transformers, batch"]["live"]["sets"] == 4
    with PillowImage.open(tmp_path / "peers.png") as drawn:
        assert min(drawn.size) >= 200


@pytest.mark.parametrize("options", [["--slices", "1"], ["--every", "7"], ["--threads", "0"]])
def test_settings_that_cannot_be_are_refused(options: list[str]) -> None:
    assert cli.call(["bench", "peers", *options]) == 2
