"""llama.cpp as a peer, with a server that only acts as one."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_llama_server
import numpy as np
import psutil
import pytest
from rich.console import Console, RenderableType

from egolive.assistant.cli.main import call
from egolive.assistant.prompts.prompts import build_prompt
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Request, Vision
from egolive.assistant.schema.profiles import NANO
from egolive.benchmarks.stream.peer_llama import LlamaBaseline, LlamaServer, encoded_ms
from egolive.benchmarks.stream.peers_report import table_of
from egolive.benchmarks.stream.stages import CASES, Stages, medians, memory_of
from egolive.streaming.errors import EngineError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")


def render(shown: RenderableType) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(shown)
    return capture.get()


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    path = tmp_path / "llama-server"
    script = shlex.quote(str(fake_llama_server.__file__))
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {script} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def baseline(binary: Path, tmp_path: Path) -> Iterator[LlamaBaseline]:
    baseline = LlamaBaseline(
        LlamaServer(binary, tmp_path / "model.gguf", tmp_path / "mmproj.gguf", threads=1), NANO
    )
    yield baseline
    baseline.close()


def request(pictures: int) -> Request:
    frames = tuple(np.zeros((56, 84, 3), np.uint8) for _ in range(2 * pictures))
    return Request(build_prompt(NANO, Question("intent"), [Vision(frames, 56, 84, "video")]), 8)


def test_stages_are_what_the_server_tells(baseline: LlamaBaseline) -> None:
    found = baseline.stages(request(3), anew=True)
    assert (found.pictures, found.encode_ms, found.prefill_ms) == (3, 20.0, 30.0)
    assert (found.prompt_tokens, found.reused_tokens, found.tokens, found.decode_ms) == (100, 0, 4, 2.0)
    assert found.first_token_ms > 0
    # What it has kept is not encoded and not read, and none of the first answer's pictures count.
    found = baseline.stages(request(3), anew=False)
    assert (found.pictures, found.encode_ms, found.prefill_ms) == (0, None, 30.0)
    assert (found.prompt_tokens, found.reused_tokens) == (100, 60)


def test_pictures_that_are_encoded_together_share_the_time() -> None:
    log = """0.10.206.169 I slot encode_mtmd_: id  0 | task 0 | encoding mtmd batch from idx = 4, n_chunks = 2
0.14.206.169 I decoding image batch 1/1, n_tokens_batch = 144
0.14.809.542 I image decoded (batch 1/1) in 603 ms
0.15.000.000 I decoding image batch 1/1, n_tokens_batch = 144
0.59.999.000 I slot encode_mtmd_: id  0 | task 0 | encoding mtmd batch from idx = 9, n_chunks = 1
1.00.999.000 I decoding image batch 1/2, n_tokens_batch = 144
"""
    assert encoded_ms(log) == pytest.approx([2000, 2000, 1000])
    assert encoded_ms("") == []


def test_a_set_of_questions_is_answered_and_its_memory_known(baseline: LlamaBaseline) -> None:
    found = baseline.answer("live", [request(1), request(1)])
    assert found.texts == ("the wearer pours tea",) * 2
    assert found.tokens == 8
    memory = memory_of(baseline.server.pid)
    if sys.platform == "linux":
        assert memory is not None
        assert memory["anonymous_mb"] > 1
        assert memory["mapped_mb"] > 1


def test_the_server_ends_with_the_baseline(binary: Path, tmp_path: Path) -> None:
    server = LlamaServer(binary, tmp_path / "model.gguf", tmp_path / "mmproj.gguf", threads=None)
    LlamaBaseline(server, NANO).close()
    assert not psutil.pid_exists(server.pid)
    assert memory_of(server.pid) is None


def test_a_server_that_does_not_start_says_why(binary: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="failed to load the model"):
        LlamaServer(binary, tmp_path / "broken.gguf", tmp_path / "mmproj.gguf", threads=1)
    with pytest.raises(EngineError, match="cannot be started"):
        LlamaServer(tmp_path / "nothing", tmp_path / "m.gguf", tmp_path / "p.gguf", threads=1)


def test_all_three_files_are_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["bench", "peers", "--gguf", str(tmp_path)]) == 2
    assert "--llama-server, --gguf and --mmproj" in capsys.readouterr().err


def test_medians_leave_out_what_is_not_told() -> None:
    rounds = [
        Stages(
            pictures=8,
            encode_ms=encode,
            prompt_tokens=100,
            reused_tokens=0,
            prefill_ms=None,
            first_token_ms=first,
            decode_ms=2.0,
            tokens=4,
        )
        for encode, first in ((10.0, 1.0), (None, 9.0), (12.0, 2.0))
    ]
    found = medians(rounds)
    assert (found["rounds"], found["encode_ms"], found["first_token_ms"]) == (3, 11.0, 2.0)
    assert found["prefill_ms"] is None


def test_stages_are_compared_with_ours(binary: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    (tmp_path / "mmproj.gguf").touch()
    llama = ["--gguf", str(tmp_path / "model.gguf"), "--mmproj", str(tmp_path / "mmproj.gguf")]
    told = tmp_path / "figures.json"
    wanted = ["--slices", "2", "--rounds", "2", "--no-cycle", "--max-tokens", "4", "--threads", "1"]
    command = ["bench", "peers", "--llama-server", str(binary), *llama, *wanted, "--json", str(told)]
    assert call(command) == 0
    figures = json.loads(told.read_text())
    ours, theirs = figures["sides"]
    assert (ours["kind"], theirs["kind"]) == ("egolive", "llama")
    assert ours["stages"]["window"]["rounds"] == 2
    pictures = {
        case: (ours["stages"][case]["pictures"], theirs["stages"][case]["pictures"]) for case in CASES
    }
    # Where the window has moved on, we encode one slice and it encodes all, in each round anew.
    assert pictures == {
        "one slice": (1, 1),
        "window": (2, 2),
        "second question": (0, 0),
        "window moved": (1, 2),
    }
    assert ours["stages"]["window"]["reused_tokens"] == 0
    moved = ours["stages"]["window moved"]
    assert 0 < moved["reused_tokens"] < moved["prompt_tokens"]
    ratios = figures["stages"]["llama.cpp, model"]
    expected = theirs["stages"]["window"]["decode_ms"] / ours["stages"]["window"]["decode_ms"]
    assert ratios["window"]["decode_ms"] == pytest.approx(expected, abs=0.006)
    assert ratios["second question"]["encode_ms"] is None
    assert figures["ratios"] == {}
    assert "window moved" in render(table_of(figures))


def test_stages_alone_need_llama(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["bench", "peers", "--no-cycle"]) == 2
    assert "--llama-server" in capsys.readouterr().err
