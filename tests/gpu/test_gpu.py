"""What only a GPU can show: the torch engine on CUDA. Run by `make gpu`; prints a JSON line a model."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import torch
from streams import STREAM, Said, ask

from egolive.assistant.backends.torch.cuda_graphs import uncaptured
from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.load_local import load_engine
from egolive.assistant.schema.engine import FULL_REUSE, NO_REUSE, Prompt, Request, Reuse, Vision

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def answer(model: Path, device: str, dtype: str) -> tuple[list[int], float]:
    """Tokens of a greedy answer about a video, and seconds it took the second time."""
    rng = torch.Generator().manual_seed(0)
    frames = tuple(
        torch.randint(0, 256, (140, 224, 3), generator=rng, dtype=torch.uint8).numpy() for _ in range(12)
    )
    vision = Vision(frames, 56, 84, "video")
    question = "<|vision_end|>What?<|im_end|>\n<|im_start|>assistant\n"
    prompt = Prompt(("<|im_start|>user\n<|vision_start|>", vision, question))
    engine = load_engine(str(model), device=device, dtype=dtype)
    with engine.session() as session:
        tokens = [delta.token for delta in session.ask([Request(prompt, max_tokens=24)])]
        start = time.perf_counter()
        again = [delta.token for delta in session.ask([Request(prompt, max_tokens=24)])]
        seconds = time.perf_counter() - start
    engine.close()
    assert again == tokens
    return tokens, seconds


@pytest.mark.parametrize("name", ["tiny_checkpoint", "shallow_2b_checkpoint"])
def test_the_gpu_says_in_fp32_what_the_cpu_says(
    name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    model: Path = request.getfixturevalue(name)
    expected, cpu_s = answer(model, "cpu", "fp32")
    found, gpu_s = answer(model, "cuda", "fp32")
    with capsys.disabled():
        line = {"test": name, "device": torch.cuda.get_device_name(), "cpu_s": cpu_s, "gpu_s": gpu_s}
        print("\n" + json.dumps(line))  # noqa: T201
    assert len(set(expected)) >= 8
    assert found == expected


def test_bf16_on_the_gpu_answers_as_bf16_on_the_cpu_but_for_ties(tiny_checkpoint: Path) -> None:
    expected, _ = answer(tiny_checkpoint, "cpu", "bf16")
    found, _ = answer(tiny_checkpoint, "cuda", "bf16")
    # bf16 sums in another order on each device, so near ties may flip; the first tokens must not.
    assert found[:2] == expected[:2]


def on_gpu(model: Path, *, graphs: bool, dtype: str = "fp32") -> TorchEngine:
    engine = load_engine(str(model), device="cuda", dtype=dtype, graphs=graphs)
    assert isinstance(engine, TorchEngine)
    return engine


def play(engine: TorchEngine, reuse: Reuse, windows: range) -> Said:
    said = Said()
    with engine.session(reuse) as session:
        for number in windows:
            said.at(session, number)
    return said


def assert_replayed(engine: TorchEngine) -> None:
    static = engine.backend()[1].static
    assert static is not None
    assert static.capture is not uncaptured, "capturing has failed; the log says why"
    assert static.sizes


@pytest.mark.parametrize("name", ["tiny_checkpoint", "shallow_2b_checkpoint"])
@pytest.mark.parametrize("reuse", [FULL_REUSE, Reuse(draft=False), NO_REUSE], ids=["all", "no draft", "none"])
def test_graphs_replay_what_is_said_without_them(
    name: str, reuse: Reuse, request: pytest.FixtureRequest
) -> None:
    model: Path = request.getfixturevalue(name)
    windows = range(4) if reuse == NO_REUSE else range(12)
    with closing(on_gpu(model, graphs=False)) as engine:
        assert engine.backend()[1].static is None
        expected = play(engine, reuse, windows)
    with closing(on_gpu(model, graphs=True)) as engine:
        found = play(engine, reuse, windows)
        assert_replayed(engine)
    found.assert_like(expected, close=1e-4)


def test_sessions_in_two_threads_share_the_graphs_of_one_engine(tiny_checkpoint: Path) -> None:
    with closing(on_gpu(tiny_checkpoint, graphs=False)) as engine:
        expected = play(engine, FULL_REUSE, range(12))
    with closing(on_gpu(tiny_checkpoint, graphs=True)) as engine, ThreadPoolExecutor(2) as threads:
        # Each captures sizes while the other one reads and encodes.
        for found in threads.map(lambda _: play(engine, FULL_REUSE, range(12)), range(2)):
            found.assert_like(expected, close=1e-4)
        assert_replayed(engine)


def test_what_graphs_gain_apart_from_reuse(
    shallow_2b_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line: dict[str, object] = {"test": "graphs", "device": torch.cuda.get_device_name(), "layers": 2}
    requests = [ask(STREAM[3][0], question, 48) for question in ("What?", "What comes next?")]
    for graphs in (False, True):
        before = torch.cuda.memory_allocated()
        with closing(on_gpu(shallow_2b_checkpoint, graphs=graphs, dtype="bf16")) as engine:
            seconds = []
            with engine.session(Reuse(draft=False)) as session:
                for _ in range(4):
                    deltas = session.ask(requests)
                    next(deltas)
                    start = time.perf_counter()
                    count = len(list(deltas))
                    seconds.append((time.perf_counter() - start) / count)
            name = "graphs" if graphs else "plain"
            line[f"{name}_first_ms_token"] = 1000 * seconds[0]
            line[f"{name}_ms_token"] = 1000 * min(seconds[1:])
            line[f"{name}_bytes"] = torch.cuda.memory_allocated() - before
            if graphs:
                assert_replayed(engine)
    with capsys.disabled():
        print("\n" + json.dumps(line))  # noqa: T201
    assert line["graphs_ms_token"] < line["plain_ms_token"]  # type: ignore[operator]
