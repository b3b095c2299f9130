"""What only a GPU can show of exported graphs: TensorRT, and ONNX Runtime's providers. Run by `make gpu`."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest
import torch
from streams import STREAM, ask

from egolive.assistant.backends.onnx.graph_backend import GraphDecoder
from egolive.assistant.backends.tensorrt.tensorrt_runtime import tensorrt_module
from egolive.assistant.backends.torch.cuda_graphs import uncaptured
from egolive.assistant.load_local import Provider, load_engine
from egolive.assistant.schema.engine import FULL_REUSE, Reuse
from egolive.quantize.build import Recipe, build_onnx
from egolive.quantize.tensorrt_build import build_engines
from egolive.streaming.errors import EngineError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

SIZE = (56, 84)
"""Of the stream's pictures."""


@pytest.fixture(scope="module", params=["fp32 full", "bf16 int4"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs of nano that TensorRT reads."""
    name: str = request.param
    dtype, precision = name.split()
    out = tmp_path_factory.mktemp("engines") / name.replace(" ", "-")
    recipe = Recipe(
        precision="int4" if precision == "int4" else "full",
        dtype="bf16" if dtype == "bf16" else "fp32",
        block=64,
        head_bits=32,
        standard=True,
    )
    build_onnx("nano", out, recipe, size=SIZE)
    return out


@pytest.fixture(scope="module")
def built(folder: Path) -> Path:
    """The same with engines."""
    try:
        tensorrt_module()
    except EngineError as error:
        pytest.skip(str(error))
    build_engines(folder)
    return folder


def said(
    folder: Path, provider: Provider, device: str = "cuda", *, graphs: bool = True, reuse: Reuse = FULL_REUSE
) -> tuple[list[list[int]], float]:
    """Greedy tokens about the windows of a stream, and seconds a token of the last of them."""
    found, seconds = [], 0.0
    with closing(load_engine(str(folder), device=device, provider=provider, graphs=graphs)) as engine:
        with engine.session(reuse) as session:
            for window in STREAM:
                tokens: list[list[int]] = [[], []]
                start = time.perf_counter()
                for delta in session.ask([ask(window[0], text, 24) for text in ("What?", "And then?")]):
                    tokens[delta.request].append(delta.token)
                seconds = (time.perf_counter() - start) / sum(map(len, tokens))
                found += tokens
        decoder = engine.backend()[1]
        if provider == "auto" and graphs:
            assert isinstance(decoder, GraphDecoder)
            assert decoder.steps is not None
            assert decoder.steps.static.capture is not uncaptured, "capturing has failed; the log says why"
            assert decoder.steps.static.sizes, "no pass was a step"
    return found, seconds


def assert_alike(folder: Path, found: list[list[int]], expected: list[list[int]]) -> None:
    """Equal in fp32; in bf16 near ties may flip, but the first tokens do not."""
    if "fp32" in folder.name:
        assert found == expected
    else:
        same = sum(one[:1] == other[:1] for one, other in zip(found, expected, strict=True))
        assert same >= 0.9 * len(expected)


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "no graphs"])
def test_tensorrt_says_what_the_same_graphs_say_on_the_cpu(
    built: Path, graphs: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    # The CPU has no bf16 products: there fp32 speaks.
    expected, _ = said(built, "onnx", "cpu") if "fp32" in built.name else said(built, "auto", graphs=False)
    found, seconds = said(built, "auto", graphs=graphs)
    with capsys.disabled():
        line = {"test": "tensorrt", "engine": built.name, "graphs": graphs, "ms_token": 1000 * seconds}
        print("\n" + json.dumps(line | {"device": torch.cuda.get_device_name()}))  # noqa: T201
    assert len({token for answer in expected for token in answer}) >= 8
    assert_alike(built, found, expected)


def test_tensorrt_with_all_reuse_says_what_it_says_without(built: Path) -> None:
    expected, _ = said(built, "auto", reuse=Reuse(draft=False))
    assert_alike(built, said(built, "auto")[0], expected)


@pytest.mark.parametrize("provider", ["onnx", "tensorrt"])
def test_onnx_runtimes_providers_say_what_the_cpu_says(
    folder: Path,
    provider: Literal["onnx", "tensorrt"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import onnxruntime

    needed = {"onnx": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}[provider]
    if needed not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {needed}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found, _ = said(folder, provider)
    if "fp32" in folder.name:
        assert found == said(folder, "onnx", "cpu")[0]
    assert len({token for answer in found for token in answer}) >= 8
