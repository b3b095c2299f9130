"""`egolive doctor`: what is installed, which engine fits this machine, what is missing and how to mend it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, cast

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from egolive.assistant.diagnostics.fit import FORMS, Fit, memory_of
from egolive.assistant.diagnostics.model_fit import fit_values, fits_of, forms_table, slow_words
from egolive.assistant.diagnostics.structures import EGOTHINKER, SMALLER, STRUCTURES
from egolive.assistant.hands.hand_choice import missing_hands
from egolive.assistant.hands.model_file import find_model
from egolive.assistant.load import check_model, is_address
from egolive.assistant.model.checkpoint import BUNDLED
from egolive.assistant.system import machine, nvml
from egolive.assistant.system.jetson import OLDEST_JETPACK
from egolive.assistant.system.speed import Speeds, kept_speeds, measured_speeds
from egolive.streaming.errors import SinkError, SourceError, UsageError
from egolive.streaming.metrics import known
from egolive.streaming.paths import existing_path

__all__ = ["Finding", "Need", "diagnose", "doctor", "engine_needs"]

GB = 1e9


_CPU = "this CPU"
_NAMES = {EGOTHINKER: "EgoThinker 7B", SMALLER: "Qwen2-VL 2B"}
_SYSTEM_BYTES = 1.5 * GB
"""Of a Jetson's memory, which CPU and GPU share, what the system keeps."""
_NANO_BYTES = 0.5 * GB
"""The bundled model is a few megabytes; what it needs is torch itself."""


@dataclass(frozen=True, slots=True)
class Need:
    """Memory that one engine needs to answer live, mapped files included."""

    engine: str
    precision: str
    bytes: int
    """On a processor."""
    gpu_bytes: int | None
    """On a GPU or a Jetson; None where it does not run there."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is missing or wrong, and how to mend it."""

    what: str
    mend: str


def engine_needs() -> list[Need]:
    """Memory need of each form of the published models; see `egolive.assistant.diagnostics.fit`."""
    found = []
    for model, name in _NAMES.items():
        sizes, cuda = STRUCTURES[model], {form.name: form for form in FORMS["cuda"]}
        found += [
            Need(
                name,
                form.name,
                memory_of(sizes, form).total,
                memory_of(sizes, cuda[form.name], cuda=True).total if form.name in cuda else None,
            )
            for form in FORMS["cpu"]
        ]
    return [*found, Need("nano", "fp32", round(_NANO_BYTES), round(_NANO_BYTES))]


def diagnose(facts: machine.Facts) -> list[Finding]:
    """What is missing on the machine that the facts describe.

    Args:
        facts: `machine.gather()`.
    """
    here = cast(machine.Facts, facts["machine"])
    versions = cast(dict[str, str], facts["versions"])
    cameras = cast(Sequence[machine.Facts], here["cameras"])
    memory = cast(dict[str, int], here["memory"])
    found = []
    if not here["gpus"]:
        mend = "the bundled nano model runs on the processor; EgoThinker-7B wants a CUDA device with 22 GB"
        if nvml.driver_version() is not None:
            mend = "an NVIDIA driver is here: install torch's CUDA build, or check it with nvidia-smi"
        found.append(Finding("no accelerator that torch can use", mend))
    found += [Finding(what, mend) for what, mend in _nvidia_lacks(here)]
    if not cameras and _is_linux(here):
        found.append(
            Finding(
                "no camera found", "plug one in, or use a file, an rtsp:// address or the pattern `test:`"
            )
        )
    blocked = [str(camera["path"]) for camera in cameras if not camera["readable"]]
    if blocked:
        found.append(
            Finding(
                f"{', '.join(blocked)} may not be opened", "sudo usermod -aG video $USER, then log in again"
            )
        )
    if 0 < memory["available"] < 2 * GB:
        found.append(
            Finding(f"only {memory['available'] / GB:.1f} GB of memory are free", "close other programs")
        )
    if "xgrammar" not in versions:
        found.append(Finding("boxes and intervals are not held to their form", "pip install xgrammar"))
    if reason := missing_hands(find_model()):
        found.append(Finding("hands are not looked for beside the model", reason))
    missing = [name for name in ("trl", "peft", "datasets") if name not in versions]
    if missing:
        found.append(Finding(f"training needs {', '.join(missing)}", "pip install 'egolive[train]'"))
    return found


def doctor(
    *,
    probe_coords: str | None = None,
    store: bool = True,
    latency: Annotated[bool, Parameter(negative="")] = False,
    prove: str | None = None,
    model: str = BUNDLED,
    measure: Annotated[bool, Parameter(negative="")] = False,
    threads: int | None = None,
    engine: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    clip: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    seconds: float = 20.0,
    out: Path = Path("egolive-proof"),
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> int:
    """Tell what is installed, which engine fits this machine, and how to mend what is missing.

    Args:
        probe_coords: Show this model squares and find the unit in which it writes boxes, instead.
        store: Write that unit into the model's profile.
        latency: Measure glass to overlay on this machine with a virtual camera, instead.
        prove: Try this model from download to live run and write one report to send in, instead.
        model: The checkpoint whose forms are estimated: memory, seconds a window, what fits. With --latency,
            what answers.
        measure: Measure this machine's speeds anew, on which estimates rest; they are kept otherwise.
        threads: CPU threads that estimates are for; all cores without it.
        engine: An engine folder that is to be proved too; may be given several times.
        clip: A clip of yours for the proof, beside the bundled one; may be given several times.
        seconds: Length of a live run.
        out: Folder of the proof.
        json_file: Also write the report there as one JSON object, and print it as the last line.
    """
    console = Console()
    if sum([probe_coords is not None, latency, prove is not None]) > 1:
        raise UsageError("give one of --probe-coords, --latency and --prove")
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--seconds is more than 0, got {seconds:g}")
    # What is wrong with a model that is to be proved is a part of the proof.
    for name in (probe_coords, model if latency else None):
        if name is not None:
            check_model(name)
    for path in clip:
        if existing_path(path) is None:
            raise SourceError(f"{path[:200]}: there is no such file; check the path")
    if json_file is not None and not json_file.parent.is_dir():
        raise SinkError(
            f"cannot write {json_file}: there is no folder {json_file.parent}; choose another place"
        )
    if probe_coords is not None or latency or prove is not None:
        # Imported here: the doctor tells what is missing also where torch is.
        from egolive.assistant.diagnostics.coordinate_probe import run_probe
        from egolive.assistant.diagnostics.glass_to_overlay import run_latency
        from egolive.assistant.diagnostics.proof import run_proof

        if probe_coords is not None:
            found, code = run_probe(probe_coords, console.out, store=store)
        elif prove is not None:
            found, code = run_proof(prove, out, engine, clip, seconds, console.out)
            json_file = json_file or out / "report.json"
            console.out(f"the report to send in: {json_file}")
        else:
            found, code = run_latency(model, seconds, console.out)
        _write(found if prove is not None else machine.gather() | found, json_file, console)
        return code
    if threads is not None and threads < 1:
        raise UsageError(f"--threads is 1 or more, got {threads}")
    if is_address(model):
        raise UsageError("--model is the address of a server, whose speed is its own; give a checkpoint")
    facts = machine.gather()
    findings = diagnose(facts)
    needs = engine_needs()
    for table in _tables(facts, needs, findings):
        console.print(table)
    device, free = _main_device(cast(machine.Facts, facts["machine"]))
    speeds = _speeds(device, threads, measure=measure or model != BUNDLED, anew=measure, console=console)
    estimated = {
        name: fits_of(name, device=device, free=free, speeds=speeds)
        for name in ((EGOTHINKER, SMALLER) if model == BUNDLED else (model,))
    }
    _tell_estimates(estimated, speeds, free, console)
    report = facts | {
        "engines": [asdict(need) for need in needs],
        "findings": [asdict(finding) for finding in findings],
        "forms": [fit_values(name, fit) for name, found in estimated.items() for fit in found],
        "speeds": None if speeds is None else asdict(speeds),
    }
    _write(report, json_file, console)
    return 0


def _main_device(here: machine.Facts) -> tuple[str, int]:
    """The device that a model is loaded on unless the user says otherwise, and its free bytes."""
    for gpu in cast(Sequence[machine.Facts], here["gpus"]):
        return str(gpu["device"]), int(cast(int, gpu["free"]))
    return "cpu", cast(dict[str, int], here["memory"])["available"]


def _speeds(
    device: str, threads: int | None, *, measure: bool, anew: bool, console: Console
) -> Speeds | None:
    """Speeds of a device; where they are not wanted enough to be measured, those that are kept, if any."""
    if not measure:
        return kept_speeds(device, threads)
    if anew or kept_speeds(device, threads) is None:
        Console(stderr=True).out("measuring this machine: some ten seconds, longer where it is busy")
    return measured_speeds(device, threads, anew=anew)


def _tell_estimates(
    estimated: Mapping[str, Sequence[Fit]], speeds: Speeds | None, free: int, console: Console
) -> None:
    """The forms of each model, and what is too slow in words."""
    if speeds is None:
        console.out("seconds a window: egolive doctor --model MODEL, which measures this machine once")
    else:
        rates = ", ".join(f"{name} {2 / one.row / GB:.0f}" for name, one in speeds.linear.items())
        console.out(
            f"measured with {speeds.threads} threads: memory is read at {speeds.read / GB:.1f} GB/s; "
            f"GFLOP/s: {rates}"
        )
        if speeds.disturbed:
            console.out(
                f"other programs took {speeds.busy:.0%} of the processors: this machine is faster when it is "
                "idle, egolive doctor --measure measures again"
            )
    for name, found in estimated.items():
        console.print(forms_table(name, found))
        # Of the models whose sizes are known; any other is compared with nothing smaller but nano.
        larger = name in STRUCTURES and name != SMALLER
        smaller = fits_of(SMALLER, device=found[0].device, free=free, speeds=speeds) if larger else []
        for line in slow_words(name, found, smaller):
            console.out(line)


def _write(report: machine.Facts, json_file: Path | None, console: Console) -> None:
    """The report as one line, in a file and at the end of what is printed."""
    if json_file is None:
        return
    line = json.dumps(known(report))
    try:
        json_file.write_text(line + "\n", encoding="utf-8")
    except OSError as error:
        raise SinkError(
            f"cannot write {json_file}: {error.strerror or error}; choose another place"
        ) from error
    console.out(line, highlight=False)
    Console(stderr=True).out(f"wrote {json_file}", highlight=False)


def _tables(facts: machine.Facts, needs: Sequence[Need], findings: Sequence[Finding]) -> list[Table]:
    here = cast(machine.Facts, facts["machine"])
    devices = _devices(here)

    machine_table = _table("This machine", "", "")
    for key, value in _machine_rows(facts, here):
        machine_table.add_row(key, value)

    versions_table = _table("Installed", "package", "version")
    for name, version in cast(dict[str, str], facts["versions"]).items():
        versions_table.add_row(name, version)

    columns = ("engine", "CPU, GB", "GPU, GB", *[name for name, _, _ in devices])
    fit_table = _table("What fits", *columns)
    fit_table.columns[0].no_wrap = True
    for need in needs:
        marks = [
            _mark(need.bytes if name == _CPU else need.gpu_bytes, free, total)
            for name, free, total in devices
        ]
        sizes = [_gigabytes(need.bytes), _gigabytes(need.gpu_bytes)]
        fit_table.add_row(f"{need.engine} {need.precision}", *sizes, *marks)
    fit_table.caption = (
        "needs on a CPU or GPU: weights + cache of 4,096 tokens + working memory, against what is free now; "
        "freed: it has as much in all, if other programs give it back\n"
        "bf16 and fp32 run as they are, the others as engine folders of `egolive quantize`;\n"
        "TensorRT with CUDA graphs holds the text layers twice, with --no-graphs once"
    )

    findings_table = _table("Missing", "what", "how to mend it")
    for finding in findings:
        findings_table.add_row(finding.what, finding.mend)
    if not findings:
        findings_table.add_row("[green]nothing[/]", "")
    return [machine_table, versions_table, fit_table, findings_table]


def _gigabytes(need: int | None) -> str:
    return "" if need is None else f"{need / GB:.1f}"


def _mark(need: int | None, free: int, total: int) -> str:
    if need is None:
        return ""
    if free >= need:
        return "[green]yes[/]"
    return "freed" if total >= need else "[dim]no[/]"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _machine_rows(facts: machine.Facts, here: machine.Facts) -> list[tuple[str, str]]:
    processor = cast(machine.Facts, here["processor"])
    memory = cast(dict[str, int], here["memory"])
    cameras = cast(Sequence[machine.Facts], here["cameras"])
    unknown = "none that matter" if _is_linux(here) else "not known on this system"
    rows = [
        ("system", str(here["platform"])),
        ("processor", f"{processor['name']}, {processor['cores']} cores"),
        ("features", " ".join(cast(Sequence[str], processor["features"])) or unknown),
        ("memory", f"{memory['total'] / GB:.1f} GB, {memory['available'] / GB:.1f} GB free"),
    ]
    if here["model"]:
        rows.insert(0, ("board", str(here["model"])))
    for gpu in cast(Sequence[machine.Facts], here["gpus"]):
        total, free = cast(int, gpu["total"]), cast(int, gpu["free"])
        text = f"{gpu['name']}, {total / GB:.1f} GB, {free / GB:.1f} GB free, capability {gpu['capability']}"
        rows.append((str(gpu["device"]), text))
    rows += _nvidia_rows(here)
    rows += [(str(camera["path"]), str(camera["name"]) or "camera") for camera in cameras]
    if facts["commit"]:
        rows.append(("commit", str(facts["commit"])))
    return rows


def _nvidia_lacks(here: machine.Facts) -> list[tuple[str, str]]:
    """What is missing on a Jetson, or for engines of graphs on a GPU, each with its remedy.

    Args:
        here: `machine` of `machine.gather()`.
    """
    found = []
    gpus = cast(Sequence[machine.Facts], here["gpus"])
    board = cast(dict[str, str] | None, here.get("jetson"))
    providers = cast(Sequence[str], here.get("providers", ()))
    if board is not None:
        jetpack = board["jetpack"]
        if jetpack and int(jetpack.partition(".")[0]) < OLDEST_JETPACK:
            found.append(
                (
                    f"JetPack {jetpack} is not supported: its Python and CUDA are too old",
                    "flash JetPack 7 (7.2 for Orin), which has Python 3.12 and CUDA 13",
                )
            )
        if not cast(dict[str, str], here["tensorrt"])["python"]:
            mend = "sudo apt install python3-libnvinfer, and a venv with --system-site-packages"
            found.append(("this Python sees no TensorRT", mend))
        found += [_not_built_for(gpu) for gpu in gpus if not _runs_on(gpu)]
    if gpus and providers and "CUDA" not in providers:
        mend = "pip uninstall onnxruntime, then pip install onnxruntime-gpu: both own one folder"
        found.append(("ONNX Runtime cannot use the GPU", mend))
    return found


def _nvidia_rows(here: machine.Facts) -> list[tuple[str, str]]:
    """Lines of the table about this machine; none where there is nothing of NVIDIA's."""
    board = cast(dict[str, str] | None, here.get("jetson"))
    tensorrt = cast(dict[str, str], here.get("tensorrt", {}))
    seen, system = tensorrt.get("python", ""), tensorrt.get("system", "")
    rows = []
    if board is not None:
        jetpack = board["jetpack"] or "of unknown version"
        rows.append(("JetPack", f"{jetpack}, Jetson Linux {board['l4t']}; CPU and GPU share the memory"))
    if here.get("cuda"):
        rows.append(("CUDA", str(here["cuda"])))
    if seen or system:
        rows.append(("TensorRT", seen or f"{system}, not seen by this Python"))
    if here.get("providers"):
        rows.append(("ONNX Runtime", "built for " + ", ".join(cast(Sequence[str], here["providers"]))))
    return rows


def _runs_on(gpu: machine.Facts) -> bool:
    """Whether torch has code for a Jetson's GPU.

    Code for another architecture of the family does not run there; what is still to be compiled does.
    """
    kernels = cast(Sequence[str], gpu.get("kernels", ()))
    return (
        not kernels or _architecture(gpu) in kernels or any(name.startswith("compute_") for name in kernels)
    )


def _not_built_for(gpu: machine.Facts) -> tuple[str, str]:
    mend = "take a wheel that was built for it, see docs/guides/jetson.md"
    return f"torch was not built for this GPU ({_architecture(gpu)})", mend


def _architecture(gpu: machine.Facts) -> str:
    return f"sm_{str(gpu['capability']).replace('.', '')}"


def _is_linux(here: machine.Facts) -> bool:
    """Whether cameras and instruction sets are known; elsewhere an empty list says nothing."""
    return str(here.get("platform", "Linux")).startswith("Linux")


def _devices(here: machine.Facts) -> list[tuple[str, int, int]]:
    """The devices of this machine, their free and all bytes of memory, then common ones to compare with."""
    memory = cast(dict[str, int], here["memory"])
    gpus = cast(Sequence[machine.Facts], here["gpus"])
    if here.get("jetson") is not None:
        most = max(0, round(memory["total"] - _SYSTEM_BYTES))
        mine = [("this Jetson", min(memory["available"], most), most)]
    else:
        mine = [(_CPU, memory["available"], memory["total"])]
        mine += [(f"this {gpu['device']}", cast(int, gpu["free"]), cast(int, gpu["total"])) for gpu in gpus]
    others = {"Orin 8 GB": 8 * GB - _SYSTEM_BYTES, "GPU 12 GB": 12 * GB, "GPU 24 GB": 24 * GB}
    return [*mine, *((name, round(size), round(size)) for name, size in others.items())]
