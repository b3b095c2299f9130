"""`egolive bench all` and `bench quality`: a part that fails leaves a line, one report holds all."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEngine
from PIL import Image as PillowImage

from egolive.assistant.cli import main as cli
from egolive.benchmarks.quality import quality_bench as quality
from egolive.benchmarks.report import everything
from egolive.benchmarks.report.html_report import headlines

LATENCY = {
    "model": "nano",
    "precision": "fp32",
    "size": "1280x720",
    "fps": 30.0,
    "glass_to_overlay_ms": {"p50": 5.0, "p95": 9.0, "p99": 12.0},
    "answer_age_s": {"p50": 0.2, "p95": 0.4, "p99": 0.5},
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stands in for the processes; holds what each was asked."""
    commands: list[list[str]] = []

    def run(words: list[str]) -> subprocess.CompletedProcess[str]:
        commands.append(list(words))
        if words[0] in ("export", "quantize"):
            return subprocess.CompletedProcess(words, 0, "", "")
        name = words[1]
        if name == "engines":
            return subprocess.CompletedProcess(words, 1, "", "a traceback\negolive: it did <not> work\n")
        figures: dict[str, Any] = {"settings": [LATENCY]} if name == "latency" else {}
        Path(words[words.index("--json") + 1]).write_text(json.dumps(figures))
        if "--plot" in words:
            PillowImage.new("RGB", (8, 8)).save(words[words.index("--plot") + 1])
        return subprocess.CompletedProcess(words, 0, "", f"a table of {name}\n")

    monkeypatch.setattr(everything, "_egolive", run)
    return commands


def test_each_benchmark_leaves_a_line_and_the_report_holds_all(
    asked: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.call(["bench", "all", "--out", str(out), "--quick", "--threads", "2"]) == 1
    names = [command.name for command in everything._COMMANDS]
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["part"] for line in lines] == names
    by_name = {line["part"]: line for line in lines}
    assert by_name["engines"]["failed"] == "egolive: it did <not> work"
    assert by_name["latency"]["settings"] == [LATENCY]
    report = (out / "report.html").read_text()
    assert "it did &lt;not&gt; work" in report
    for name in set(names) - {"engines"}:
        assert f"a table of {name}" in report
    assert report.count("data:image/png;base64,") == sum("plot" in c.takes for c in everything._COMMANDS) - 1
    assert "5.0 / 9.0 / 12.0 ms" in report
    # Nothing in it is fetched from anywhere.
    assert not re.search(r'(src|href)="(?!data:)|https?://|@import|<script|<link', report)
    # What is told at the end is where to look.
    assert str(out / "report.html") in capsys.readouterr().err


def test_engines_are_made_where_none_are_given_and_reach_those_who_take_them(
    asked: list[list[str]], tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    cli.call(["bench", "all", "--out", str(tmp_path / "out"), "--only", "latency", "--only", "peers"])
    made = [words[-1] for words in asked[:2]]
    assert [words[0] for words in asked] == ["export", "quantize", "bench", "bench"]
    latency, peers = asked[2:]
    assert latency[2:5] == ["nano", *made]
    assert [peers[place + 1] for place, word in enumerate(peers) if word == "--engine"] == made
    assert "--quick" not in latency + peers
    assert "--threads" not in latency + peers


def test_a_folder_that_holds_something_is_left_alone(asked: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    assert cli.call(["bench", "all", "--out", str(tmp_path)]) == 2
    assert cli.call(["bench", "all", "--out", str(tmp_path / "new"), "--only", "nothing"]) == 2
    assert not asked


def test_every_command_of_it_is_one_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for command in everything._COMMANDS:
        cli.call(["bench", command.name, "--help"])
        told = capsys.readouterr().out
        options = {"plot": "--plot", "threads": "--threads", "model": "--model", "peers": "--engine --server"}
        common = " ".join(text for name, text in options.items() if name in command.takes.split())
        for word in f"{command.words} {command.quick} {common} --json".split():
            if word.startswith("--"):
                assert word.replace("--no-", "--") in told.replace("--no-", "--"), (command.name, word)


def test_headlines_stand_for_what_was_measured_alone() -> None:
    curve = {"ours": {"verdict": "not flat", "growth": 2.5}}
    sides = [{"name": "a server"}, {"name": "compiled", "skipped": "no compiler"}]
    figures: dict[str, dict[str, Any]] = {
        "scaling": {"curves": {"hours": curve}},
        "engines": {},
        "peers": {"sides": sides},
    }
    assert dict(headlines(figures)) == {
        "skipped: compiled": "no compiler",
        "cost by hours": "not flat, fitted growth 2.50",
    }
    # A figure that could not be measured has no line, the others of its part have.
    latency = {"settings": [LATENCY | {"glass_to_overlay_ms": None}]}
    assert list(dict(headlines({"latency": latency})).values()) == ["0.20 / 0.40 / 0.50 s"]


def test_quality_asks_every_engine_the_same_episodes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[int, str, int]] = []

    def ask(_: object, index: int, split: str, seed: int, slices: int) -> list[dict[str, Any]]:
        asked.append((index, split, seed))
        return []

    figures = {"hand_miou": 0.5, "hand_miou_ci": [0.4, 0.6], "hand_miou_chance": 0.1, "hand_miou_n": 9}
    monkeypatch.setattr(quality, "open_model", lambda *_, **__: FakeEngine())
    monkeypatch.setattr("egolive.benchmarks.commands.check_model", lambda *_: None)
    monkeypatch.setattr(quality, "training_bags", lambda *_: [])
    monkeypatch.setattr(quality, "ask_episode", ask)
    monkeypatch.setattr(quality, "report", lambda *_: figures)
    command = ["bench", "quality", "one", "other", "--episodes", "3", "--json", str(tmp_path / "q.json")]
    assert cli.call(command) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out.splitlines()[-1])
    assert asked == [(index, "test", 0) for index in range(3)] * 2
    assert [entry["hand_miou"] for entry in told["engines"]] == [0.5, 0.5]
    assert "0.500 (0.400 to 0.600)" in printed.err
