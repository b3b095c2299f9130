"""Slips of a user: each is one line with the right exit code, told before torch is imported.

The commands run in one child process, in which torch, transformers and gradio cannot be imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from egolive.assistant.cli.ask_command import _media_and_words

LONG = "what is on the table in front of me " * 8
BASE64 = "iVBORw0KGgo" * 1000

SLIPS: list[tuple[list[str], int, str]] = [
    # What is not there.
    (["rnu"], 2, "did you mean 'run'"),
    (["bench", "steam"], 2, "did you mean 'stream'"),
    (["run", "--bogus"], 2, "--bogus"),
    (["run", "missing.mp4"], 1, "no such file"),
    (["ask", "missing.jpg", "what?"], 1, "no such file"),
    (["ask", "missing.mp4", "--task", "intent"], 1, "no such file"),
    (["ask", "--batch", "missing.jsonl"], 1, "cannot be read"),
    (["replay", "missing"], 1, "no such folder"),
    (["recall", "missing", "cup"], 1, "holds no memory"),
    (["forget", "missing", "5"], 1, "holds no memory"),
    (["rows", "epic", "missing.csv", "rows.jsonl"], 1, "no such file"),
    (["rows", "epci", "picture.png", "rows.jsonl"], 2, "epci"),
    (["evaluate", "--data", "missing.jsonl"], 1, "not known"),
    (["evaluate", "--data", "sim:tset"], 1, "not known"),
    (["evaluate", "--media", "missing", "--data", "rows.json"], 1, "no folder"),
    (["demo", "--source", "missing.mp4"], 1, "no such file"),
    (["demo", "--certificate", "missing.pem", "--key", "missing.pem"], 1, "no such file"),
    (["doctor", "--prove", "nano", "--clip", "missing.mp4"], 1, "no such file"),
    (["quantize", "nano", "--out", "o", "--to", "awq-int4", "--calibrate", "missing.mp4"], 1, "no such file"),
    # Models.
    (["run", "--model", "nnano"], 1, "did you mean nano"),
    (["run", "--engine", "missing/folder/deep"], 1, "no folder"),
    (["run", "--model", "empty"], 1, "config.json"),
    (["run", "--model", "picture.png"], 1, "is a file"),
    (["run", "--model", BASE64], 1, "no folder"),
    (["ask", "picture.png", "what?", "--model", "nnano"], 1, "did you mean nano"),
    (["demo", "--port", "17861", "--model", "nnano"], 1, "did you mean nano"),
    (["evaluate", "--model", "nnano"], 1, "did you mean nano"),
    (["export", "nnano", "--out", "o"], 1, "did you mean nano"),
    (["quantize", "nnano", "--out", "o"], 1, "did you mean nano"),
    (["quantize", "--compare", "nano", "nnano"], 1, "did you mean nano"),
    (["doctor", "--probe-coords", "nnano"], 1, "did you mean nano"),
    (["doctor", "--latency", "--model", "nnano"], 1, "did you mean nano"),
    (["bench", "stream", "--model", "nnano"], 1, "did you mean nano"),
    (["bench", "recall", "--model", "nnano"], 1, "did you mean nano"),
    (["bench", "latency", "nnano"], 1, "did you mean nano"),
    (["bench", "engines", "nnano"], 1, "did you mean nano"),
    (["bench", "peers", "--model", "nnano"], 1, "did you mean nano"),
    (["bench", "scaling", "--model", "nnano"], 1, "did you mean nano"),
    (["bench", "quality", "nnano"], 1, "did you mean nano"),
    # Devices, dtypes, threads.
    (["run", "--device", "gpu"], 2, "cuda:N"),
    (["ask", "picture.png", "what?", "--device", "cuda:x"], 2, "cuda:N"),
    (["recall", "missing", "cup", "--device", "gpu"], 2, "cuda:N"),
    (["replay", "missing", "--device", "gpu"], 2, "cuda:N"),
    (["demo", "--port", "17861", "--device", "gpu"], 2, "cuda:N"),
    (["evaluate", "--device", "gpu"], 2, "cuda:N"),
    (["quantize", "--compare", "nano", "nano", "--device", "gpu"], 2, "cuda:N"),
    (["bench", "latency", "--device", "gpu"], 2, "cuda:N"),
    (["bench", "engines", "--device", "gpu"], 2, "cuda:N"),
    (["bench", "scaling", "--device", "gpu"], 2, "cuda:N"),
    (["bench", "quality", "--device", "gpu"], 2, "cuda:N"),
    (["bench", "stream", "--device", "gpu"], 2, "cuda"),
    (["run", "--dtype", "fp16"], 2, "overflow"),
    (["evaluate", "--dtype", "int3"], 2, "bf16"),
    (["export", "--dtype", "fp16"], 2, "--dtype"),
    (["run", "--threads", "0"], 2, "--threads"),
    (["evaluate", "--threads", "0"], 2, "--threads"),
    (["train", "sft", "nano-sft", "--threads", "0"], 2, "--threads"),
    # Outputs.
    (["run", "--out", "picture.png"], 1, "is a file"),
    (["run", "--record", "r", "--memory", "m"], 2, "--record or --memory"),
    (["simulate", "data"], 2, "--episodes"),
    (["simulate", "picture.png", "--episodes", "2"], 1, "cannot write"),
    (["simulate", "full", "--episodes", "2"], 1, "not empty"),
    (["export", "nano"], 2, "--out"),
    (["export", "nano", "--out", "picture.png"], 2, "is a file"),
    (["quantize", "nano"], 2, "--out"),
    (["quantize", "nano", "--out", "o", "--height", "90"], 2, "--width"),
    (["quantize", "--compare", "nano"], 2, "two engines"),
    (["quantize", "--compare", "nano", "nano", "--json", "missing/x.json"], 2, "no folder missing"),
    (["evaluate", "--json", "missing/x.json"], 1, "no folder missing"),
    (["evaluate", "--json", "empty"], 1, "is a folder"),
    (["rows", "simulator", "full", "missing/rows.jsonl"], 2, "no folder missing"),
    (["doctor", "--json", "missing/x.json"], 1, "no folder missing"),
    (["bench", "all"], 2, "--out"),
    (["bench", "stream", "--json", "missing/x.json"], 1, "no folder missing"),
    (["bench", "quality", "--json", "missing/x.json"], 2, "no folder missing"),
    (["train", "sft", "nano-sft", "--out", "picture.png"], 2, "is a file"),
    (["train", "grpo", "nano-grpo", "--data", "picture.png"], 2, "is a file"),
    # Numbers and words.
    (["ask", "picture.png", "what?", "--start", "5", "--end", "2"], 2, "--start 5"),
    (["ask", "picture.png", "what?", "--temperature", "-1"], 2, "--temperature"),
    (["ask", "picture.png", "--task", "intnet"], 2, "intnet"),
    (["ask", "picture.png", "what?", "--max-tokens", "0"], 2, "--max-tokens"),
    (["run", "--tasks", "intnet"], 2, "intnet"),
    (["run", "--seconds", "-1"], 2, "--seconds"),
    (["forget", "missing", "-5"], 2, "minutes"),
    (["demo", "--port", "99999"], 2, "--port"),
    (["evaluate", "--episodes", "0"], 1, "one episode"),
    (["bench", "stream", "--slices", "1"], 1, "2 slices"),
    (["bench", "quality", "--episodes", "0"], 2, "one episode"),
    # Recipes.
    (["train", "sft", "nano-stf"], 1, "nano-sft"),
    (["train", "grpo", "nano-sft"], 1, "egolive train sft"),
    (["train", "sft", "bad.yaml"], 1, "lrr"),
    (["train", "grpo", "text.yaml"], 1, "YAML"),
    (["train", "sft", "egothinker-sft", "--data", "full"], 2, "--data"),
    (["train", "sft", "nano-sft", "--push-to-hub", "no hub id"], 1, "no hub id"),
    (["train", "sft", "nano-sft", "--push-to-hub", "me/model"], 1, "hf auth login"),
    # Text where a path could stand.
    (["ask", LONG], 2, "something to look at"),
    (["ask", BASE64], 2, "something to look at"),
    (["ask", LONG, LONG], 1, "base64"),
    (["ask", BASE64, "what?"], 1, "not a picture"),
    (["ask", "caf\udce9.jpg", "what?"], 1, "no such file"),
    (["ask", "\ud800", "what?"], 1, "no such file"),
    (["ask", "~nobody-there/x.jpg", "what?"], 1, "no such file"),
    (["ask", "picture.png", "picture.png"], 2, "write the question last"),
    (["ask", "picture.png", "data:image/png;base64," + BASE64], 2, "write the question last"),
    (["ask", "data:image/png;base64," + BASE64, "what?"], 1, "the data URI: not a picture"),
    (["ask", "data:video/mp4;base64," + BASE64, "what?"], 1, "the data URI: not a picture"),
    (["ask", "list.mp4", "what?"], 1, "a playlist"),
    (["run", "list.mp4"], 1, "a playlist"),
    (["ask", "picture.png", " "], 2, "question is empty"),
    (["run", LONG], 1, "no such file"),
    (["run", BASE64], 1, "no such file"),
    (["run", "caf\udce9.mp4"], 1, "no such file"),
    (["run", "--phrase", " "], 2, "--phrase"),
    (["recall", BASE64, "cup"], 1, "holds no memory"),
    (["replay", BASE64], 1, "no such folder"),
    (["evaluate", "--data", BASE64], 1, "not known"),
    (["train", "sft", BASE64], 1, "no recipe"),
    (["rows", "epic", BASE64, "rows.jsonl"], 1, "no such file"),
    ([BASE64], 2, "no command"),
]

HELP = [
    [],
    *([name] for name in ("run", "ask", "demo", "recall", "forget", "replay", "doctor")),
    *([name] for name in ("simulate", "rows", "evaluate", "export", "quantize", "train", "bench")),
    *(["train", name] for name in ("sft", "grpo", "ablation")),
    *(["bench", name] for name in ("stream", "tracking", "recall", "latency", "engines", "peers", "scaling")),
    *(["bench", name] for name in ("quality", "all", "soak", "overhead")),
]

_CHILD = """
import contextlib, io, json, resource, sys

class Heavy:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers", "gradio"):
            refused.append(name)
            raise RuntimeError(f"{name} was imported")

refused, told = [], []
sys.meta_path.insert(0, Heavy())
from egolive.assistant.cli.main import call
for words in json.load(sys.stdin):
    refused.clear()
    before, out, err = resource.getrusage(resource.RUSAGE_SELF), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = call(words)
    after = resource.getrusage(resource.RUSAGE_SELF)
    told.append({
        "code": code, "out": out.getvalue(), "err": err.getvalue(), "heavy": list(refused),
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    })
json.dump(told, sys.__stdout__)
"""


def told_of(lines: list[list[str]], folder: Path) -> list[dict[str, Any]]:
    """What a child process in a folder says to command lines, one after the other."""
    given = json.dumps(lines)
    # No login: the child must not find that of whoever runs the tests.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    env |= {"HF_HOME": str(folder / "hub"), "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=given,
        capture_output=True,
        text=True,
        cwd=folder,
        env=env,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the slips happen: a picture, an empty folder, a folder with something in it, bad recipes."""
    made = tmp_path_factory.mktemp("slips")
    (made / "empty").mkdir()
    (made / "full").mkdir()
    (made / "full" / "notes.txt").write_text("notes")
    (made / "rows.json").write_text("[]")
    cv2.imwrite(str(made / "picture.png"), np.full((60, 80, 3), 90, np.uint8))
    (made / "list.mp4").write_text("ffconcat version 1.0\nfile list.mp4\n")
    (made / "bad.yaml").write_text("data: d\nepisodes: 4\ntower: {steps: 1, batch: 1, lrr: 1.0e-3}\n")
    (made / "text.yaml").write_text("just: [words\n")
    return made


@pytest.fixture(scope="module")
def slips(folder: Path) -> list[dict[str, Any]]:
    """What the command line says to each slip."""
    return told_of([words for words, _, _ in SLIPS], folder)


@pytest.mark.parametrize(
    "number",
    range(len(SLIPS)),
    ids=[" ".join(word[:20] for word in words).encode("ascii", "replace").decode() for words, _, _ in SLIPS],
)
def test_a_slip_is_one_line_told_before_torch_is_imported(slips: list[dict[str, Any]], number: int) -> None:
    words, code, expected = SLIPS[number]
    told = slips[number]
    assert told["heavy"] == [], words
    assert told["code"] == code, told["err"]
    assert told["out"] == ""
    assert told["err"].count("\n") == 1, told["err"]
    assert expected in told["err"]
    assert "unexpected" not in told["err"]
    assert len(told["err"]) < 700
    assert told["cpu"] < 2.5


def test_help_of_every_command_is_fast_and_has_examples(folder: Path) -> None:
    for words, told in zip(HELP, told_of([[*words, "--help"] for words in HELP], folder), strict=True):
        assert (told["code"], told["heavy"], told["err"]) == (0, [], ""), words
        assert told["cpu"] < 2.5
        if words and words[-1] not in ("train", "bench"):
            assert f"Examples:\n  egolive {' '.join(words[:-1])}" in told["out"], words


@pytest.mark.parametrize("question", ["w" * 265, LONG, "caf\udce9?", "\ud800", "~nobody-there/x?"])
@pytest.mark.parametrize("order", [1, -1], ids=["picture first", "question first"])
def test_a_question_is_found_beside_the_picture_in_either_order(
    folder: Path, question: str, order: int
) -> None:
    picture = str(folder / "picture.png")
    media, words = _media_and_words([picture, question][::order], "ask")
    assert media == [picture]
    assert words.isprintable()
    assert len(words) == len(question.strip()) or words.startswith(question[0])
