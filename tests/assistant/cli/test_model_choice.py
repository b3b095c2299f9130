"""Which form of a large model is loaded, and when a question is asked: never without a terminal."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from measured import config_folder, engine_card, speeds

from egolive.assistant.cli import model_choice
from egolive.assistant.cli.model_choice import Chosen, choose
from egolive.assistant.cli.options import ModelOptions
from egolive.assistant.model.engine_folder import write_engine_card
from egolive.assistant.model.model_cache import cached_models, config_of, entry_for
from egolive.streaming.errors import EngineError, UsageError

LIVE, SLOW = 1e-13, 1e-9


class Terminal(io.StringIO):
    """Standard input or error of someone who sits at a terminal."""

    def isatty(self) -> bool:
        return True


class Machine:
    """A machine with some free memory and speed, on which building takes no time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 10_000_000_000
        self.speeds = speeds(SLOW, row=SLOW / 10)
        self.built: list[list[str]] = []
        self.code = 0
        monkeypatch.setattr(model_choice, "_places", lambda _: [("cpu", self.free, 32_000_000_000)])
        monkeypatch.setattr(model_choice, "kept_speeds", lambda *_: self.speeds)
        monkeypatch.setattr(model_choice, "_unbuildable", lambda: ("awq-int4",))
        self.check_disk = model_choice._check_disk
        monkeypatch.setattr(model_choice, "_check_disk", lambda _: None)
        monkeypatch.setattr(model_choice, "_run", self.run)

    def run(self, command: Sequence[str]) -> int:
        assert command[:3] == [sys.executable, "-m", "egolive"]
        self.built.append(list(command[3:]))
        if not self.code:
            out = Path(command[command.index("--out") + 1])
            out.mkdir(parents=True)
            write_engine_card(out, engine_card(command[command.index("--to") + 1]))
        return self.code


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    return Machine(monkeypatch)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A 7B's configuration; more is not read before something is chosen."""
    return str(config_folder(tmp_path / "seven"))


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", Terminal())


def test_what_is_live_as_it_is_is_taken_without_a_word(
    machine: Machine, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.free, machine.speeds = 10**11, speeds(LIVE)
    assert choose(model) == Chosen(model, "cpu", "fp32", threads=1)
    assert capsys.readouterr().err == ""
    assert not machine.built


@pytest.mark.parametrize("name", ["nano", "http://127.0.0.1:9/v1"])
def test_what_has_one_form_is_left_alone(
    name: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_choice, "kept_speeds", None)
    assert choose(name) == Chosen(name, "auto")


def test_small_models_and_what_loading_refuses_are_left_alone(
    machine: Machine, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_choice, "kept_speeds", None)
    engine = tmp_path / "engine"
    engine.mkdir()
    write_engine_card(engine, engine_card("int4"))
    (tmp_path / "empty").mkdir()
    quantised = config_folder(tmp_path / "quantised", quantization_config={"quant_method": "hqq"})
    other = config_folder(tmp_path / "other", model_type="llama")
    for folder in (tiny_checkpoint, engine, tmp_path / "empty", quantised, other):
        assert choose(str(folder)) == Chosen(str(folder), "auto")


def test_a_large_engine_gets_the_threads_that_were_measured(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tmp_path / "engine"
    engine.mkdir()
    write_engine_card(engine, engine_card("int4"))
    with (engine / "decoder.data").open("wb") as file:
        # Without a byte of it on the disk.
        file.truncate(10**9)
    assert choose(str(engine), device="cpu") == Chosen(str(engine), "cpu", threads=machine.speeds.threads)
    assert choose(str(engine), device="cpu", threads=7).threads == 7
    monkeypatch.setattr(model_choice, "kept_speeds", lambda *_: None)
    assert choose(str(engine), device="cpu").threads is None


def test_what_another_process_builds_is_waited_for_and_not_built_again(
    machine: Machine, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""
    revision = config_of(model)[1]
    entry = entry_for(model, revision, "int4")
    entry.folder.mkdir(parents=True)
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(entry.folder / "building.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"

        def finish(line: str) -> None:
            """The other one is done once it is waited for."""
            if "waiting" in line:
                entry.engine.mkdir()
                write_engine_card(entry.engine, engine_card("int4"))
                assert other.stdin is not None
                other.stdin.close()
            print(line, file=sys.stderr)  # noqa: T201

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model_choice, "note", finish)
            chosen = choose(model, yes=True)
    assert chosen.model == str(entry.engine)
    assert not machine.built
    assert "another egolive builds" in capsys.readouterr().err


def test_what_was_told_by_option_is_left_alone(machine: Machine, tiny_checkpoint: Path) -> None:
    machine.free = 0
    options = ModelOptions(model=str(tiny_checkpoint), dtype="bf16")
    assert options.chosen() is options


def test_without_a_terminal_nothing_is_asked_and_the_line_that_builds_is_told(
    machine: Machine, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sys.stdin.tell()
    with pytest.raises(EngineError, match=r"--yes.*egolive quantize .*seven --to int4 --out ") as caught:
        choose(model)
    assert "\n" not in str(caught.value)
    assert sys.stdin.tell() == before
    assert not machine.built
    told = capsys.readouterr().err
    # Each form with what it needs, or lacks.
    for expected in ("bf16", "lacks", "int4", "fits", "s a window, too slow"):
        assert expected in told


def test_yes_builds_once_and_later_runs_take_what_was_built(
    machine: Machine, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = choose(model, yes=True)
    ((command, *rest),) = machine.built
    assert command == "quantize"
    assert rest == [model, "--to", "int4", "--out", chosen.model]
    assert chosen.dtype == "auto"
    (entry,) = cached_models()
    assert (entry.form, entry.built, str(entry.engine)) == ("int4", True, chosen.model)
    assert entry.engine.name == "seven-int4"
    capsys.readouterr()
    assert choose(model) == chosen
    assert len(machine.built) == 1
    assert "taking seven-int4 from the cache" in capsys.readouterr().err


def test_another_revision_is_built_anew(machine: Machine, model: str) -> None:
    first = choose(model, yes=True)
    (Path(model) / "model.safetensors").write_bytes(b"other weights")
    assert choose(model, yes=True) != first
    assert len(machine.built) == 2


@pytest.mark.parametrize("answer", ["y\n", "\n", "Yes\n"])
def test_at_a_terminal_it_is_asked_once(
    answer: str, machine: Machine, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_a_terminal(monkeypatch, answer)
    choose(model)
    assert isinstance(sys.stderr, Terminal)
    assert sys.stderr.getvalue().count("[Y/n]") == 1
    choose(model)
    assert sys.stderr.getvalue().count("[Y/n]") == 1
    assert len(machine.built) == 1


@pytest.mark.parametrize("answer", ["n\n", "later\n"])
def test_no_builds_nothing(
    answer: str, machine: Machine, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_a_terminal(monkeypatch, answer)
    with pytest.raises(UsageError, match="egolive quantize"):
        choose(model)
    assert not machine.built
    assert not cached_models()


def test_a_build_that_fails_can_go_on_or_be_removed(machine: Machine, model: str) -> None:
    machine.code = 3
    with pytest.raises(EngineError, match=r"exit code 3; start again .* egolive models remove seven-"):
        choose(model, yes=True)
    (entry,) = cached_models()
    assert not entry.built
    machine.code = 0
    assert choose(model, yes=True).model == str(entry.engine)


def test_what_is_too_slow_is_told_in_seconds_with_a_smaller_model(
    machine: Machine, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EngineError):
        choose(model)
    lines = capsys.readouterr().err.splitlines()
    (slow,) = [line for line in lines if "too slow to be live here: about" in line]
    (smaller,) = [line for line in lines if line.startswith("smaller: --model Qwen/Qwen2-VL-2B-Instruct")]

    def seconds(line: str) -> float:
        return float(line.partition("about ")[2].split()[0])

    assert seconds(slow) > 15
    assert seconds(smaller) < seconds(slow)


def test_slow_as_it_is_goes_on_where_nobody_can_be_asked(
    machine: Machine, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.free = 10**11
    fast = speeds(SLOW / 4, row=SLOW / 40).linear
    machine.speeds = replace(
        machine.speeds, linear={**machine.speeds.linear, "int4": fast["int4"], "int8": fast["int8"]}
    )
    assert choose(model) == Chosen(model, "cpu", "fp32", threads=1)
    assert "--yes builds it" in capsys.readouterr().err
    assert not machine.built


def test_where_the_gpu_is_too_small_the_processor_is_looked_at(
    machine: Machine, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [("cuda:0", 4 * 10**9, 8 * 10**9), ("cpu", 10**11, 10**11)]
    monkeypatch.setattr(model_choice, "_places", lambda _: places)
    machine.speeds = speeds(LIVE)
    assert choose(model) == Chosen(model, "cpu", "fp32", threads=1)
    assert "on cuda:0 (4.0 of 8.0 GB free)" in capsys.readouterr().err
    # On a GPU a form whose speed is not known would run elsewhere, and is not taken.
    places[0] = ("cuda:0", 7 * 10**9, 8 * 10**9)
    machine.speeds = speeds(LIVE, without=("int4",))
    assert choose(model).device == "cpu"


def test_what_fits_in_no_form_is_told_with_what_is_missing(machine: Machine, model: str) -> None:
    machine.free = 10**9
    with pytest.raises(EngineError, match=r"fits in no form .* lacks [0-9.]+ GB; close other programs"):
        choose(model, yes=True)
    assert not machine.built


def test_a_full_disk_is_told_before_anything_is_built(
    machine: Machine, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_choice, "_check_disk", machine.check_disk)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(EngineError, match=r"GB of disk in .*, 1\.0 GB are free"):
        choose(model, yes=True)
    assert not machine.built


@pytest.mark.parametrize("method", ["compressed-tensors", "gptq", "awq"])
def test_a_published_four_bit_checkpoint_becomes_an_engine(
    machine: Machine, model: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(model) / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": {"quant_method": method}}
    path.write_text(json.dumps(config))
    # Fast and large as the machine is, it cannot be loaded as it is.
    machine.free, machine.speeds = 10**11, speeds(LIVE)
    with pytest.raises(EngineError, match=r"cannot be loaded as it is; give --yes, or .*--to int4"):
        choose(model)
    assert machine.built == []
    chosen = choose(model, yes=True)
    assert machine.built == [["quantize", model, "--to", "int4", "--out", chosen.model]]
    assert choose(model) == chosen
