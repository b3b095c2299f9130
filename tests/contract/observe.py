"""What the installed package does: its command line, and the files and JSON that its commands write.

Everything is made now, by the console command in this process, as small as it goes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import json
import logging
import os
import re
import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import types
import typing
import warnings
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints
from unittest import mock

import av
import torch
import yaml

from contract import locate
from contract.shapes import merged, shape

ROOT = Path(__file__).parents[2]
FROZEN = Path(__file__).parent / "frozen"


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


class Workspace:
    """Runs commands in one folder, each once, whoever asks for what it wrote."""

    def __init__(self, folder: Path, *, size: tuple[int, int] = (224, 140)) -> None:
        self.folder = folder
        self.size = size
        """Width and height of the pictures that are made."""

    def call(self, *words: object) -> Done:
        """Run one command in this process; processes that it starts in this Python run here as well."""
        out, err = io.StringIO(), io.StringIO()
        logger, threads = logging.getLogger("egolive"), torch.get_num_threads()
        handlers, level = list(logger.handlers), logger.level
        terminate = signal.getsignal(signal.SIGTERM)
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(contextlib.redirect_stdout(out))
                stack.enter_context(contextlib.redirect_stderr(err))
                stack.enter_context(mock.patch.object(sys, "argv", ["egolive", *map(str, words)]))
                stack.enter_context(mock.patch.object(subprocess, "run", _run_here))
                # A thread that another test left behind would have it end the process of the tests.
                stack.enter_context(mock.patch.object(os, "_exit", sys.exit))
                try:
                    locate.command()()
                    code: object = 0
                except SystemExit as error:
                    code = error.code
        finally:
            signal.signal(signal.SIGTERM, terminate)
            torch.set_num_threads(threads)
            logger.handlers[:], logger.level = handlers, level
        return Done(code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())

    def done(self, *words: object) -> Done:
        """The same of a command that has to work."""
        done = self.call(*words)
        assert done.code == 0, (
            f"egolive {' '.join(map(str, words))} ended with {done.code}: {done.err[-2000:]}"
        )
        return done

    def measured(self, name: str, *words: object) -> dict[str, Any]:
        """What a measuring command writes with --json, which has to be its last line too."""
        path = self.folder / f"{name}.json"
        done = self.done(*words, "--json", path)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        line = json.loads(done.out.splitlines()[-1])
        assert line == found, f"the last line of {name} is not what --json wrote"
        return found

    @cached_property
    def episodes(self) -> Path:
        """A simulated data set of one episode."""
        out = self.folder / "episodes"
        self.done(
            *("simulate", out, "--episodes", 1, "--fps", 4, "--size", *self.size, "--workers", 1),
            *("--split", "test"),
        )
        return out

    @cached_property
    def clip(self) -> Path:
        """Two stretches of the episode, each of 1.5 seconds, with a hole of 8 seconds between them."""
        path = self.folder / "clip.mp4"
        with av.open(str(self.episodes / "00000.mp4")) as source, av.open(str(path), "w") as sink:
            stream = sink.add_stream("libx264", rate=4)
            (stream.width, stream.height), stream.pix_fmt = self.size, "yuv420p"
            for index, frame in enumerate(islice(source.decode(video=0), 12)):
                frame.pts, frame.time_base = index + (32 if index >= 6 else 0), Fraction(1, 4)
                sink.mux(stream.encode(frame))
            sink.mux(stream.encode(None))
        return path

    @cached_property
    def run(self) -> Path:
        """Folder of a run with everything on: out/, recording/ and evidence/."""
        folder = self.folder / "run"
        self.done(
            *("run", self.clip, "--slices", 2, "--phrase", "the bowl", "--audit", 20, "--no-view"),
            *("--out", folder / "out", "--record", folder / "recording", "--evidence", folder / "evidence"),
        )
        return folder

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The events of the run."""
        lines = (self.run / "out" / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @cached_property
    def memory(self) -> Path:
        """Folder of a memory."""
        folder = self.folder / "memory"
        self.done("run", self.clip, "--slices", 2, "--memory", folder, "--no-view")
        return folder

    @cached_property
    def small(self) -> Path:
        """A copy of nano that sees pictures of 56 x 56 pixels, for what is only to run."""
        copy = self.folder / "small"
        shutil.copytree(locate.nano(), copy)
        told = read(copy / "egolive.json") | {"picture": [56, 56]}
        (copy / "egolive.json").write_text(json.dumps(told), encoding="utf-8")
        return copy

    @cached_property
    def evaluated(self) -> tuple[dict[str, Any], Path, Path]:
        """What `evaluate` measured, of a copy of nano with the frozen profile; its samples; the copy."""
        copy = self.folder / "nano"
        shutil.copytree(locate.nano(), copy, dirs_exist_ok=True)
        frozen = FROZEN / "profile.json"
        if frozen.is_file():
            (copy / "egolive.json").write_text(json.dumps(read(frozen)["file"]), encoding="utf-8")
        bags = locate.find(locate.BAG_BASELINE)
        samples = self.folder / "samples.jsonl"
        with mock.patch(
            locate.BAG_BASELINE.replace(":", "."), lambda *words, **more: bags(*words, **more, episodes=4)
        ):
            words = ("--episodes", 1, "--slices", 2, "--model", copy, "--card", copy, "--samples", samples)
            return self.measured("evaluate", "evaluate", *words), samples, copy

    @cached_property
    def engines(self) -> dict[str, Path]:
        """Engine folders of the small copy by name."""
        folder = self.folder / "engines"
        self.done("export", self.small, "--out", folder / "onnx-fp32")
        kinds = {"onnx-int8": "int8", "onnx-int4": "int4", "torch-nf4": "nf4"}
        for name, kind in kinds.items():
            self.done("quantize", self.small, "--to", kind, "--out", folder / name)
        self.done(
            *("quantize", self.small, "--to", "awq-int4", "--out", folder / "onnx-awq-int4"),
            *("--windows", 1, "--slices", 1),
        )
        return {path.name: path for path in sorted(folder.iterdir())}

    @cached_property
    def compared(self) -> dict[str, Any]:
        """What `quantize --compare` measured; it also fills the engine's card."""
        words = ("--compare", self.small, self.engines["onnx-int8"], "--episodes", 1, "--windows", 1)
        return self.measured("compare", "quantize", *words)


def read(path: Path) -> dict[str, Any]:
    """A JSON object."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


_subprocess_run = subprocess.run


def _run_here(command: Any, *more: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run`, without a new process for another module of this Python: importing takes seconds."""
    words = [str(word) for word in command] if isinstance(command, list | tuple) else []
    if words[:1] != [sys.executable] or words[1:2] not in (["-m"], ["-c"]):
        return _subprocess_run(command, *more, **options)
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", words[2:]),
        warnings.catch_warnings(),
    ):
        # That the module has been imported already.
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            if words[1] == "-m":
                runpy.run_module(words[2], run_name="__main__")
            else:
                exec(words[2], {"__name__": "__main__"})
        except SystemExit as error:
            code = error.code
    number = (code or 0) if isinstance(code, int | None) else 1
    return subprocess.CompletedProcess(words, number, out.getvalue(), err.getvalue())


# The command line.


def commands(_: Workspace | None = None) -> dict[str, Any]:
    """Every command with its arguments."""
    app = locate.app()
    found: dict[str, Any] = {"egolive": _arguments(app.meta)}
    found["egolive"]["flags"] = [*app.help_flags, *app.version_flags]
    pending = [("", app)]
    while pending:
        path, one = pending.pop(0)
        for name, inner in one.resolved_commands().items():
            if name.startswith("-"):
                continue
            whole = f"{path} {name}".strip()
            found[whole] = _arguments(inner) if inner.default_command is not None else {}
            pending.append((whole, inner))
    return found


def _arguments(app: Any) -> dict[str, Any]:
    options = []
    for argument in app.assemble_argument_collection():
        if not argument.parse or not argument.show:
            continue
        default = argument.field_info.default
        names = {*argument.names, *argument.negatives}
        options.append(
            {
                "names": sorted(names, key=lambda name: (len(name), name)),
                "position": "rest" if argument.is_var_positional() else argument.index,
                "required": argument.required,
                "type": _type(argument.hint),
                "several": bool(argument.parameter.consume_multiple),
                "default": None if default is inspect.Parameter.empty else plain(default),
                "choices": sorted(argument.get_choices(force=True) or ()),
            }
        )
    return {"options": options}


def _type(hint: Any) -> str:
    """A type in words, without names of modules."""
    simple = {str: "text", int: "integer", float: "number", bool: "flag", Path: "path"}
    if hint in simple:
        return simple[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin is typing.Literal:
        return f"one of {'numbers' if isinstance(inner[0], int) else 'words'}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join("nothing" if one is type(None) else _type(one) for one in inner)
    if origin is tuple:
        return f"list of {_type(inner[0])}" if inner[1:] == (...,) else ", ".join(map(_type, inner))
    if origin is list:
        return f"list of {_type(inner[0])}"
    return getattr(hint, "__name__", str(hint))


def plain(value: Any) -> Any:
    """A default as JSON holds it."""
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    return value if isinstance(value, str | int | float | None) else str(value)


def settings(kind: type) -> dict[str, Any]:
    """Keys of a class of settings, a dataclass or a pydantic model, with their defaults."""
    found = {}
    if hasattr(kind, "model_fields"):
        for name, one in kind.model_fields.items():
            key = one.validation_alias or one.alias or name
            required = one.is_required()
            default = None if required else one.get_default(call_default_factory=True)
            found[str(key)] = {"required": True} if required else {"default": plain(default)}
        return found
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            found[field.name] = {"default": plain(field.default)}
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = {"default": plain(field.default_factory())}
        else:
            found[field.name] = {"required": True}
    return found


# What commands write: each of these is compared with the frozen file of its name.


def events(work: Workspace) -> dict[str, Any]:
    """events.jsonl by type; the last `metrics` event, which has the totals, apart; `ask --json`."""
    by_type: dict[str, Any] = {}
    for event in work.events[:-1]:
        name = str(event["type"])
        by_type[name] = merged([by_type[name], shape(event)] if name in by_type else [shape(event)])
    by_type["last metrics"] = shape(work.events[-1])
    live = work.folder / "live"
    work.done(
        *("run", "test:160x90@10", "--model", work.small, "--seconds", 2, "--no-view", "--no-video"),
        *("--tasks", "ground", "--deadline", 60, "--out", live),
    )
    last = (live / "events.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    by_type["last metrics, live"] = shape(json.loads(last), free=frozenset({"stages", "counts"}))
    step = read(work.episodes / "00000.json")["episode"]["steps"][0]["text"]
    asked = work.done("ask", "--task", "when", work.episodes / "00000.mp4", step, "--end", 6, "--json")
    by_type["egolive ask --json"] = shape(json.loads(asked.out.splitlines()[-1]))
    return by_type


def recording(work: Workspace) -> dict[str, Any]:
    """The folder of `run --record`."""
    folder = work.run / "recording"
    lines = [json.loads(line) for line in (folder / "recording.jsonl").read_text().splitlines()]
    kinds: dict[str, Any] = {}
    for line in lines:
        name = next(iter(line))
        kinds[name] = merged([kinds[name], shape(line)] if name in kinds else [shape(line)])
    head = read(folder / "recording.json")
    return {"recording.json": shape(head), "recording.jsonl": kinds}


def evidence(work: Workspace) -> dict[str, Any]:
    """The bundles of `run --evidence`."""
    folders = sorted((work.run / "evidence").iterdir())
    bundles = [shape(read(folder / "bundle.json"), free=frozenset({"frames"})) for folder in folders]
    answers = [shape(read(folder / "answer.json")) for folder in folders]
    return {"bundle.json": merged(bundles), "answer.json": merged(answers)}


def files(work: Workspace) -> dict[str, Any]:
    """Names of files and folders; numbers stand as #."""
    bundles = sorted((work.run / "evidence").iterdir())
    return {
        "run --out": _names(work.run / "out"),
        "run --record": _names(work.run / "recording"),
        "run --evidence": _names(work.run / "evidence"),
        "bundle": sorted({name for path in bundles for name in _names(path)}),
        "run --memory": _names(work.memory),
        "simulate": _names(work.episodes),
        "recipes in the package": locate.recipe_names(),
        **{f"engine {name}": _names(path) for name, path in work.engines.items()},
    }


def _names(folder: Path) -> list[str]:
    return sorted({re.sub(r"(?<![a-z])\d+", "#", path.name) for path in folder.iterdir()})


def engine_cards(work: Workspace) -> dict[str, Any]:
    """engine.json of each engine; of the compared one with what it loses."""
    assert work.compared
    return {name: shape(read(path / "engine.json")) for name, path in work.engines.items()}


def engine_names(work: Workspace) -> dict[str, Any]:
    """Names and precisions under which engines appear in cards, bundles, recordings and comparisons."""
    found: dict[str, Any] = {
        "cards": {name: _about(read(path / "engine.json")) for name, path in work.engines.items()},
        "compared": [_about(entry) for entry in work.compared["engines"]],
        "recording": _about(read(work.run / "recording" / "recording.json")["settings"]["engine"]),
    }
    bundle = next((work.run / "evidence").glob("*/bundle.json"))
    return found | {"bundle": _about(read(bundle)["engine"])}


def _about(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in ("name", "backend", "precision")}


def formats(work: Workspace) -> dict[str, Any]:
    """Format numbers."""
    return {
        "recording": read(work.run / "recording" / "recording.json")["format"],
        "bundle": read(next((work.run / "evidence").glob("*/bundle.json")))["format"],
        "engine": read(work.engines["onnx-int8"] / "engine.json")["format"],
        "simulated look": read(work.episodes / "manifest.json")["look"],
    }


def measurements(work: Workspace) -> dict[str, Any]:
    """The JSON objects of the measuring commands."""
    with contextlib.ExitStack() as stack:
        for place, count in zip(locate.FAULTS, (1, 0), strict=True):
            faults = locate.find(place)
            few = partial(lambda faults, count: islice(faults(), count), faults, count)
            stack.enter_context(mock.patch(place.replace(":", "."), few))
        soak = work.measured("soak", "bench", "soak", "--hours", 0.002)
    quick = ("--slices", 2, "--hops", 4, "--max-tokens", 2)
    found = {
        "evaluate": work.evaluated[0],
        "evaluate --compare": work.measured(
            "pair", "evaluate", "--compare", work.evaluated[1], work.evaluated[1]
        ),
        "bench stream": work.measured("stream", "bench", "stream", "--model", work.small, *quick),
        "bench engines": work.measured("engines", "bench", "engines", work.small, "--slices", 1),
        "bench latency": work.measured(
            "latency", "bench", "latency", work.small, "--seconds", 2, "--size", "256x144"
        ),
        "bench soak": soak,
        "bench recall": work.measured("recall", "bench", "recall", "--sessions", 1, "--seconds", 10),
        "quantize --compare": work.compared,
        "doctor": work.measured("doctor", "doctor"),
    }
    return {name: shape(values) for name, values in found.items()}


def samples(work: Workspace) -> dict[str, Any]:
    """Lines of `evaluate --samples`, by the kind of question."""
    first, *lines = [json.loads(line) for line in work.evaluated[1].read_text().splitlines()]
    kinds: dict[str, Any] = {"first line": shape(first)}
    for line in lines:
        name = str(line["task"])
        line.pop("last", None)
        kinds[name] = merged([kinds[name], shape(line)] if name in kinds else [shape(line)])
    return kinds


def memory(work: Workspace) -> dict[str, Any]:
    """Tables and columns of a memory's file."""
    with contextlib.closing(sqlite3.connect(work.memory / "memory.sqlite")) as file:
        return {
            table: {row[1]: row[2] for row in file.execute(f"PRAGMA table_info({table})")}
            for table in ("moments", "words")
        }


def simulated(work: Workspace) -> dict[str, Any]:
    """Files of a simulated data set."""
    return {
        "manifest.json": shape(read(work.episodes / "manifest.json")),
        "#.json": shape(read(work.episodes / "00000.json"), free=frozenset({"objects", "states"})),
    }


def profile(work: Workspace) -> dict[str, Any]:
    """A profile file as it is written now, its keys with their defaults, and the built-in profiles."""
    profiles = {name: plain(one) for name, one in locate.find(locate.PROFILES).items()}
    return {
        # The numbers of a calibration are its weights' own.
        "file": read(work.engines["onnx-fp32"] / "egolive.json") | {"calibration": None},
        "keys": settings(locate.find(locate.PROFILE)),
        "built in": profiles,
    }


def recipes(_: Workspace | None = None) -> dict[str, Any]:
    """Keys and defaults of recipes."""
    return {name: settings(locate.find(place)) for name, place in locate.RECIPES.items()}


def model_card(work: Workspace) -> dict[str, Any]:
    """README.md of a model: its head, and the table that `evaluate --card` writes, with its heading."""
    text = (work.evaluated[2] / "README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    # What is above the last table, and the table.
    lines = body.splitlines()
    last = max(number for number, line in enumerate(lines[1:], 1) if line[:1] == "|" != lines[number - 1][:1])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[last:] if line[:1] == "|"]
    return {
        "head": yaml.safe_load(head),
        "heading": [line for line in lines[:last] if line.startswith("#")][-1],
        "tables": sum(line.startswith("| ---") for line in lines),
        "columns": rows[0],
        "measures": [row[0] for row in rows[2:]],
    }


def statuses(_: Workspace | None = None) -> dict[str, Any]:
    """Statuses of an answer."""
    return {"answer": sorted(get_args(get_type_hints(locate.find(locate.ANSWER))["status"]))}


def makefile(_: Workspace | None = None) -> dict[str, Any]:
    """Targets and variables of the Makefile, and what `run`, `test` and `compare` call."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z][a-z-]*):(?!=)", text, re.MULTILINE)
    variables = dict(re.findall(r"^([A-Z_]+) \?= (.*)$", text, re.MULTILINE))
    words = {
        "run": ("OUT=somewhere",),
        "test": (),
        "compare": ("JSON=told.json", "ENGINES=made", "EPISODES=3"),
    }
    environment = {key: value for key, value in os.environ.items() if key not in {*variables, "MAKEFLAGS"}}
    calls = {}
    for target, given in words.items():
        done = _subprocess_run(
            ["make", "--dry-run", "--always-make", target, *given],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        lines = done.stdout.replace("\\\n", " ").splitlines()
        wanted = re.compile(r"bin/egolive |-m pytest")
        calls[target] = [" ".join(line.split()) for line in lines if wanted.search(line)]
    return {"targets": targets, "variables": variables, "calls": calls}


def exit_codes(work: Workspace) -> dict[str, Any]:
    """Exit codes: done, something to mend, wrong usage, interrupted, terminated."""
    found = {
        "--version": work.call("--version").code,
        "run, a file that is not there": work.call("run", work.folder / "nothing.mp4").code,
        "run, a value that cannot be": work.call("run", "--fps", 0).code,
        "run, an option that is not there": work.call("run", "--bogus").code,
        "a command that is not there": work.call("bogus").code,
    }
    # A shell's background job ignores interrupts, and so would its children.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from importlib import metadata as m; [s] = m.entry_points(group='console_scripts', name='egolive')"
    )
    for name, number in (("interrupted", signal.SIGINT), ("terminated", signal.SIGTERM)):
        out = work.folder / name
        words = ["simulate", str(out), "--episodes", "5000", "--fps", "1", "--size", "64", "64"]
        with subprocess.Popen(
            [sys.executable, "-c", f"{code}; s.load()()", *words, "--workers", "1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            until = time.monotonic() + 60
            while not (out / "00000.json").exists() and time.monotonic() < until and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(number)
            try:
                found[name] = process.wait(timeout=60)
            finally:
                process.kill()
    return found


SHAPES: dict[str, Callable[[Workspace], dict[str, Any]]] = {
    "events": events,
    "recording": recording,
    "evidence": evidence,
    "engine_cards": engine_cards,
    "measurements": measurements,
    "samples": samples,
    "simulated": simulated,
}
"""Whose frozen files hold shapes."""
VALUES: dict[str, Callable[[Workspace], dict[str, Any]]] = {
    "files": files,
    "formats": formats,
    "engine_names": engine_names,
    "memory": memory,
    "profile": profile,
    "recipes": recipes,
    "model_card": model_card,
    "statuses": statuses,
    "makefile": makefile,
    "exit_codes": exit_codes,
}
"""Whose frozen files hold values as they are."""


def lost_commands(frozen: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Commands and options that are missing or differ."""
    lines = []
    for command, told in frozen.items():
        words = "egolive" if command == "egolive" else f"egolive {command}"
        if command not in now:
            lines.append(f"`{words}` is missing")
            continue
        lines += [
            f"`{words}`: the flag {flag} is missing"
            for flag in told.get("flags", ())
            if flag not in now[command]["flags"]
        ]
        for option in told.get("options", ()):
            lines += [f"`{words}`: {line}" for line in _lost_option(option, now[command].get("options", []))]
    return lines


def _lost_option(frozen: dict[str, Any], now: list[dict[str, Any]]) -> list[str]:
    name = " ".join(frozen["names"])
    found = _same_option(frozen, now)
    if found is None:
        return [f"{name} is missing"]
    lines = [f"{name}: the spelling {one} is missing" for one in frozen["names"] if one not in found["names"]]
    lines += [
        f"{name}: the choice {one} is missing" for one in frozen["choices"] if one not in found["choices"]
    ]
    for key in ("position", "type", "several", "default"):
        if frozen[key] != found[key]:
            lines.append(f"{name}: {key} was {frozen[key]!r}, is {found[key]!r}")
    if found["required"] and not frozen["required"]:
        lines.append(f"{name}: has to be given now, did not have to")
    return lines


def _same_option(option: dict[str, Any], among: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The one that shares a spelling with it, most of them first; a positional argument goes by its place."""
    if option["position"] == "rest":
        return next((one for one in among if one["position"] == "rest"), None)
    names = {*option["names"]}
    best = max(among, key=lambda one: len(names & {*one["names"]}), default=None)
    return best if best is not None and names & {*best["names"]} else None


def added_commands(frozen: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The frozen commands with commands, options, spellings and choices that are new."""
    whole = {**frozen}
    for command, told in now.items():
        if command not in frozen:
            whole[command] = told
            continue
        options = [{**one} for one in frozen[command].get("options", [])]
        for option in told.get("options", []):
            known = _same_option(option, options)
            if known is None:
                options.append(option)
                continue
            for key in ("names", "choices"):
                known[key] = known[key] + [one for one in option[key] if one not in known[key]]
        whole[command] = {**told, **frozen[command], **({"options": options} if options else {})}
    return whole
