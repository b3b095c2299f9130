"""Which form of a large model is loaded: the checkpoint as it is, or an engine that fits and is faster.

A checkpoint that fits and is live as it is, an engine folder, nano and a server are taken as they are. For
others it is told what fits and how fast it will be (`egolive.assistant.diagnostics.fit`). An engine that was
built before is taken; else one is built into the cache, after a question at a terminal, and without a
terminal only where `--yes` was given.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from importlib import util
from pathlib import Path

from filelock import FileLock, Timeout

from egolive.assistant.cli.printing import loading, note, working
from egolive.assistant.diagnostics.fit import Fit, best_fit, fits
from egolive.assistant.diagnostics.model_fit import fits_of, in_words, slow_words
from egolive.assistant.diagnostics.structures import SMALLER, STRUCTURES
from egolive.assistant.load import is_address
from egolive.assistant.model.checkpoint import BUNDLED, PUBLISHED, model_folder
from egolive.assistant.model.engine_folder import is_engine_folder
from egolive.assistant.model.model_cache import CachedModel, config_of, entry_for, is_cached, touch
from egolive.assistant.model.model_sizes import model_sizes
from egolive.assistant.schema.profiles import EGOTHINKER_V1, load_profile
from egolive.assistant.system import machine
from egolive.assistant.system.speed import Speeds, kept_speeds, measured_speeds
from egolive.assistant.system.user_cache import cache_folder
from egolive.streaming.errors import EngineError, UsageError
from egolive.streaming.json_files import read_json_object

__all__ = ["Chosen", "choose"]

_LEAST_WEIGHTS = 400_000_000
"""Smaller models are loaded as they are: they fit, and measuring takes longer than they do."""
_MOST_CONFIG = 16 * 1024**2
"""Bytes of a configuration."""
_PACKAGES = {"nf4": ("bitsandbytes",), "int8": ("onnx", "onnxruntime"), "int4": ("onnx", "onnxruntime")}
"""What building a form needs beside what is always installed."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What to load."""

    model: str
    """The model as it was given, or an engine folder in the cache."""
    device: str
    """Where: what was asked for, or what it fits."""
    dtype: str = "auto"
    """Of a checkpoint."""
    threads: int | None = None
    """CPU threads: as told, or those that were measured to be fastest; None where nothing was measured."""


def choose(model: str, *, device: str = "auto", threads: int | None = None, yes: bool = False) -> Chosen:
    """Choose the form of a model, and build it where that is wanted.

    Args:
        model: As `load_any_engine` takes it.
        device: "auto", "cpu" or "cuda:N".
        threads: CPU threads that it will have.
        yes: Build without a question.

    Raises:
        EngineError: No form fits, the best one is not built and may not be, or building failed.
        UsageError: The question was answered with no.
    """
    as_told = Chosen(model, device, threads=threads)
    if model == BUNDLED or is_address(model):
        return as_told
    folder = model_folder(model)
    if folder is not None and is_engine_folder(folder):
        return replace(as_told, threads=threads or _kept_threads(folder, device))
    if folder is not None and not (folder / "config.json").is_file():
        return as_told
    with loading(model) if folder is None and not is_cached(model) else nullcontext():
        config, revision = config_of(model)
    values = read_json_object(config, remedy="download it again", most=_MOST_CONFIG, error=EngineError)
    quantised = values.get("quantization_config")
    published = isinstance(quantised, dict) and quantised.get("quant_method") in PUBLISHED
    if values.get("model_type") != "qwen2_vl" or (quantised is not None and not published):
        # Loading tells what is wrong with it, or reads it as it was quantised.
        return as_told
    sizes = model_sizes(values, where=str(config))
    if sizes.total < _LEAST_WEIGHTS and not published:
        return as_told
    profile = load_profile(folder) if folder is not None else EGOTHINKER_V1
    least: Fit | None = None
    for place, free, total in _places(device):
        speeds = _speeds(place, threads)
        found = fits(sizes, profile, device=place, free=free, speeds=speeds)
        if published:
            # Its numbers are kept: of them one form can be made.
            found = [fit for fit in found if fit.form.name == "int4"]
        best = best_fit(_usable(found), without=_unbuildable())
        if place == "cpu":
            threads = speeds.threads
        if best is not None and not best.form.built and best.pace in ("live", "not known"):
            return Chosen(model, place, best.form.name, threads)
        entries = {fit.form.name: entry_for(model, revision, fit.form.name) for fit in found}
        ready = best_fit([fit for fit in _usable(found) if entries[fit.form.name].built], without=())
        taken = ready is not None and best is not None and ready.pace in ("live", best.pace)
        if not taken:
            note(
                f"{model} on {place} ({free / 1e9:.1f} of {total / 1e9:.1f} GB free), what fits and how fast:"
            )
            for fit in found:
                note(f"  {in_words(fit)}")
        if best is None:
            least = min([*found, *([least] if least else [])], key=lambda fit: fit.lacks)
            continue
        larger = sizes.total > STRUCTURES[SMALLER].total
        smaller = fits_of(SMALLER, device=place, free=free, speeds=speeds) if larger else []
        for line in slow_words(model, found, smaller):
            note(line)
        if ready is not None and taken:
            return replace(_take(entries[ready.form.name], place), threads=threads)
        if not best.form.built:
            return Chosen(model, place, best.form.name, threads)
        return replace(_build(model, best, found, entries[best.form.name], yes=yes), threads=threads)
    assert least is not None
    raise EngineError(
        f"{model} fits in no form that can be made here: {least.form.name} lacks {least.lacks / 1e9:.1f} GB; "
        f"close other programs, or use --model {SMALLER} or --model {BUNDLED}"
    )


def _kept_threads(folder: Path, device: str) -> int | None:
    """Threads for an engine folder on a CPU, where it is large and this machine has been measured."""
    import torch

    large = sum(path.stat().st_size for path in folder.rglob("*.data")) >= _LEAST_WEIGHTS
    if not large or device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return None
    known = kept_speeds("cpu", None)
    return None if known is None else known.threads


def _places(device: str) -> list[tuple[str, int, int]]:
    """Devices that a model may be loaded on, the first choice first: names, free and all bytes of memory."""
    found = []
    if device != "cpu":
        import torch

        if torch.cuda.is_available():
            place = "cuda:0" if device in ("auto", "cuda") else device
            found.append((place, *torch.cuda.mem_get_info(place)))
    if device in ("auto", "cpu") or not found:
        memory = machine.memory()
        found.append(("cpu", memory["available"], memory["total"]))
    return found


def _speeds(place: str, threads: int | None) -> Speeds:
    """Speeds of a device, which are measured where they are not known."""
    known = kept_speeds(place, threads)
    if known is not None:
        return known
    with working("measuring this machine, once: some ten seconds"):
        return measured_speeds(place, threads)


def _usable(found: Sequence[Fit]) -> list[Fit]:
    """Without forms that would run elsewhere: on a GPU, graphs whose provider is not installed."""
    return [fit for fit in found if fit.device == "cpu" or fit.costs is not None]


def _unbuildable() -> tuple[str, ...]:
    """Forms that are not chosen: AWQ takes an hour or more, others lack a package."""
    lacking = [
        name for name, needed in _PACKAGES.items() if any(util.find_spec(one) is None for one in needed)
    ]
    return ("awq-int4", *lacking)


def _take(entry: CachedModel, place: str) -> Chosen:
    # Where it cannot be written, only the time of its last use is lost.
    with suppress(OSError):
        touch(entry)
    note(f"taking {entry.engine.name} from the cache (egolive models)")
    return Chosen(str(entry.engine), place)


def _build(model: str, best: Fit, found: Sequence[Fit], entry: CachedModel, *, yes: bool) -> Chosen:
    """Build the best form, if that is wanted."""
    size = f"{best.memory.total / 1e9:.1f}"
    command = ["quantize", model, "--to", best.form.name, "--out", str(entry.engine)]
    line = f"egolive {shlex.join(command)}"
    if not yes:
        if not sys.stdin.isatty() or not sys.stderr.isatty():
            whole = next((fit for fit in found if not fit.form.built and not fit.lacks), None)
            if whole is not None:
                note(f"{best.form.name} would be faster; --yes builds it, or: {line}")
                return Chosen(model, whole.device, whole.form.name)
            raise EngineError(
                f"{model} cannot be loaded as it is; give --yes, or build {best.form.name} once: {line}"
            )
        sys.stderr.write(f"build {best.form.name} now, once, into {entry.folder} (needs {size} GB)? [Y/n] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("", "y", "yes"):
            raise UsageError(f"nothing was built; choose another --model, or build it later: {line}")
    _check_disk(best)
    try:
        touch(entry)
    except OSError as error:
        raise EngineError(
            f"{entry.folder} cannot be written: {error.strerror or error}; set XDG_CACHE_HOME to another "
            "folder"
        ) from error
    lock = FileLock(entry.folder / "building.lock")
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        note(f"another egolive builds {entry.engine.name}; waiting for it")
        held = lock.acquire()
    with held:
        code = 0
        if not entry.built:
            note(f"building: {line}")
            # Its own process, so that its memory is given back; its progress goes to this terminal.
            code = _run([sys.executable, "-m", "egolive", *command])
    if code or not entry.built:
        raise EngineError(
            f"building {entry.engine.name} ended with exit code {code}; start again to go on, or remove what "
            f"is there: egolive models remove {entry.name}"
        )
    return _take(entry, best.device)


def _check_disk(best: Fit) -> None:
    """Refuse to build what the disk cannot hold.

    Raises:
        EngineError: There is too little room.
    """
    place = cache_folder()
    while not place.is_dir():
        place = place.parent
    free = shutil.disk_usage(place).free
    # Twice its size: while it is put in place, and what building leaves for a while.
    if free < 2 * best.memory.total:
        raise EngineError(
            f"building {best.form.name} needs {2 * best.memory.total / 1e9:.1f} GB of disk in {place}, "
            f"{free / 1e9:.1f} GB are free; make room, or set XDG_CACHE_HOME"
        )


def _run(command: Sequence[str]) -> int:
    """Run a command to its end; it is ended with this process."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno())
    try:
        return child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()
