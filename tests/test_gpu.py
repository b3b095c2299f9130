"""What only a GPU can show: the torch engine on CUDA. Run by `make gpu`; prints a JSON line a model."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from egolive.assistant.engine import Prompt, Request, Vision
from egolive.assistant.loading import load_engine

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
