"""How fast this machine reads memory and multiplies, as the engines' own kernels do it.

Measured once for each machine, set of versions and number of threads, and kept in the user's cache folder;
`measured_speeds(..., anew=True)` measures again. Where no number of threads is given, the one that is fastest
is found first. What these numbers mean for a model is worked out in `egolive.assistant.diagnostics.fit`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from importlib import util
from pathlib import Path

import psutil

from egolive.assistant.system import machine
from egolive.assistant.system.user_cache import cache_folder
from egolive.streaming.durable_files import replace_file

__all__ = ["FEW_ROWS", "FORMATS", "LinearSpeed", "Speeds", "kept_speeds", "measure_speeds", "measured_speeds"]

Clock = Callable[[], float]

FEW_ROWS = 4
"""Rows of a pass that decodes several answers at once."""
_MANY_ROWS = 256
"""Rows of a pass that reads a prompt or a picture."""
_INPUT = 2048
_OUTPUT = {"fp32": 12_288, "onnx-fp32": 12_288, "bf16": 16_384}
_WIDE = 32_768
"""Widths of the layer that is timed, by format: more bytes of weights than most processors' caches hold."""
_READ_BYTES = 128 * 1024**2
_REPEATS = 5
_SECONDS = 0.4
"""After so long a piece of work is no longer repeated."""
_BUSY = 0.25
_LOOK_SECONDS = 0.3
_KEPT_SECONDS = 3600.0
"""Figures that were measured beside busy programs are measured again after this time."""
_FORMAT = 3
"""Raised where kept figures mean something else than before."""
_PROMPT_TOKENS, _ANSWER_TOKENS = 1200, 24
"""Of one question, by which numbers of threads are compared."""
_GAIN = 0.03
"""Share of the time that more threads have to save: fewer leave room for the camera."""
_BITS = {"int4": (4, 128), "int8": (8, 32), "int8-128": (8, 128)}
"""Bits and numbers that share a scale, of ONNX Runtime's MatMulNBits."""
FORMATS = ("fp32", "bf16", "nf4", "onnx-fp32", *_BITS)
"""Number formats of linear layers: fp32, bf16 and nf4 of torch, the others of ONNX Runtime."""
_ACCURACY = 4
"""Activations in 8 bits, as engines are written."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LinearSpeed:
    """Seconds that linear layers of one number format take for each weight, by the rows of the pass."""

    one: float
    """A pass of one row, as in decoding one answer."""
    few: float
    """A pass of `FEW_ROWS` rows, as in decoding several answers."""
    row: float
    """Each row of a pass of many, as in reading a prompt."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Speeds of one device."""

    device: str
    threads: int
    """CPU threads that it was measured with."""
    read: float
    """Bytes a second that are read from memory."""
    copy: float
    """Bytes a second that move when a block is copied, read and written together."""
    linear: Mapping[str, LinearSpeed]
    """By number format: fp32, bf16 and nf4 of torch; onnx-fp32, int4, int8 and int8-128 of ONNX Runtime.
    What is not installed, or what the device cannot do, is left out."""
    busy: float = 0.0
    """Share of the processors that other programs took when it was measured."""
    time: float = 0.0
    """When it was measured, seconds since 1970."""

    @property
    def disturbed(self) -> bool:
        """Whether other programs took so much that the figures are too low."""
        return self.busy > _BUSY


def measured_speeds(device: str = "cpu", threads: int | None = None, *, anew: bool = False) -> Speeds:
    """The speeds of a device, from the user's cache or measured now, which takes some seconds.

    Args:
        device: "cpu" or "cuda:N".
        threads: CPU threads; None takes the number that is fastest.
        anew: Measure also where there are figures in the cache.
    """
    known = None if anew else kept_speeds(device, threads)
    if known is not None:
        return known
    found, path = measure_speeds(device, threads), _place(device, threads)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, f"{json.dumps(asdict(found))}\n".encode())
    except OSError as error:
        _log.info("speeds are not kept: %s", error.strerror or error)
    return found


def kept_speeds(device: str = "cpu", threads: int | None = None) -> Speeds | None:
    """The speeds of a device as they were measured before; None where they are to be measured."""
    try:
        values = json.loads(_place(device, threads).read_text(encoding="utf-8"))
        linear = {name: LinearSpeed(**speed) for name, speed in values["linear"].items()}
        found = Speeds(**values | {"linear": linear})
    except (OSError, ValueError, TypeError, KeyError):
        # Not there, cut off or of another form.
        return None
    return None if found.disturbed and time.time() - found.time > _KEPT_SECONDS else found


def _place(device: str, threads: int | None) -> Path:
    return cache_folder() / "speeds" / f"{_key(device, threads)}.json"


def measure_speeds(
    device: str = "cpu",
    threads: int | None = None,
    *,
    formats: Collection[str] = FORMATS,
    clock: Clock = time.perf_counter,
) -> Speeds:
    """Measure now and keep nothing.

    Args:
        device: "cpu" or "cuda:N".
        threads: CPU threads; None takes the number that is fastest, on a GPU all cores of this process.
        formats: Number formats of linear layers that are measured.
        clock: Gives seconds; `time.process_time` with one thread is what other programs do not lengthen.
    """
    import torch

    before = torch.get_num_threads()
    try:
        busy = psutil.cpu_percent(_LOOK_SECONDS) / 100
        watch = _Stopwatch(device, clock)
        threads = threads or _best_threads(watch)
        torch.set_num_threads(threads)
        read, copy = _memory_rates(watch)
        linear = {}
        for name in FORMATS:
            speed = _tried(name, watch, threads) if name in formats else None
            if speed is not None:
                linear[name] = speed
    finally:
        torch.set_num_threads(before)
    return Speeds(device, threads, read, copy, linear, busy, time.time())


def _best_threads(watch: _Stopwatch) -> int:
    """Threads with which a large layer is fastest: all cores, one a physical core, or half as many.

    Two threads of one physical core share its arithmetic, small cores let large ones wait, and a container
    may see more cores than it is given time on.
    """
    cores = int(str(machine.processor()["cores"]))
    physical = min(cores, psutil.cpu_count(logical=False) or cores)
    candidates = sorted({max(1, physical // 2), physical, cores})
    if watch.device != "cpu" or len(candidates) == 1:
        return cores
    seconds = {count: _question_seconds(watch, count) for count in candidates}
    best = min(seconds.values())
    return next(count for count in candidates if seconds[count] * (1 - _GAIN) <= best)


def _question_seconds(watch: _Stopwatch, threads: int) -> float:
    """Seconds that a question takes, for each weight, with so many threads."""
    import torch

    torch.set_num_threads(threads)
    # In fp32 where ONNX Runtime is not installed.
    speed = _tried("int4", watch, threads) or _plain("fp32", watch)
    return _PROMPT_TOKENS * speed.row + _ANSWER_TOKENS * speed.one


def _tried(name: str, watch: _Stopwatch, threads: int | None) -> LinearSpeed | None:
    """A format's speed; None where it is not to be had here, which is no error."""
    try:
        if name in ("fp32", "bf16"):
            return _plain(name, watch)
        return _nf4(watch) if name == "nf4" else _onnx(name, watch, threads)
    except Exception as error:  # each library fails in its own way where it lacks a kernel
        _log.info("%s was not measured: %s", name, error)
        return None


def _key(device: str, threads: int | None) -> str:
    """Name of what the figures depend on: processor or GPU, memory, threads, versions."""
    packages = ("torch", "onnxruntime", "onnxruntime-gpu", "bitsandbytes")
    versions = machine.versions()
    gpu = ""
    if device != "cpu":
        import torch

        gpu = torch.cuda.get_device_name(device)
    known = [_FORMAT, device, gpu, threads, machine.processor(), machine.memory()["total"]]
    text = json.dumps([*known, [versions.get(name) for name in packages]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Stopwatch:
    """Times work on one device."""

    device: str
    clock: Clock

    def seconds(self, work: Callable[[], object]) -> float:
        """Least time of a piece of work, which other programs only lengthen; the first run does not count."""
        import torch

        times: list[float] = []
        for run in range(_REPEATS + 1):
            started = self.clock()
            work()
            if self.device != "cpu":
                torch.cuda.synchronize(self.device)
            spent = self.clock() - started
            if run:
                times.append(spent)
            if times and sum(times) > _SECONDS:
                break
        return min(times)


def _by_rows(run: Callable[[int], Callable[[], object]], weights: int, watch: _Stopwatch) -> LinearSpeed:
    """Time passes of one, few and many rows.

    Args:
        run: Makes the pass for a number of rows.
        weights: Of the layer.
        watch: Times them.
    """
    one, few, many = (watch.seconds(run(rows)) / weights for rows in (1, FEW_ROWS, _MANY_ROWS))
    return LinearSpeed(one, few, many / _MANY_ROWS)


def _memory_rates(watch: _Stopwatch) -> tuple[float, float]:
    """Bytes a second that are read, and that move in a copy."""
    import torch

    block = torch.ones(_READ_BYTES // 4, device=watch.device)
    other = torch.empty_like(block)
    read = _READ_BYTES / watch.seconds(block.sum)
    return read, 2 * _READ_BYTES / watch.seconds(lambda: other.copy_(block))


def _plain(name: str, watch: _Stopwatch) -> LinearSpeed:
    """Linear layers of torch in fp32 or bf16."""
    import torch

    device, width = watch.device, _OUTPUT[name]
    dtype = torch.float32 if name == "fp32" else torch.bfloat16
    weight = torch.ones((width, _INPUT), dtype=dtype, device=device)
    # The torch engine has this kernel for a few rows: see `egolive.assistant.backends.torch.torch_decoder`.
    onednn = dtype == torch.float32 and device == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]

    def run(rows: int) -> Callable[[], object]:
        states = torch.ones((rows, _INPUT), dtype=dtype, device=device)
        if onednn and rows == FEW_ROWS:
            return lambda: torch.ops.mkldnn._linear_pointwise(states, weight, None, "none", [], "")
        return lambda: torch.nn.functional.linear(states, weight)

    with torch.inference_mode():
        return _by_rows(run, weight.numel(), watch)


def _nf4(watch: _Stopwatch) -> LinearSpeed | None:
    """4-bit layers of bitsandbytes, which compute in fp32 on a CPU and in bf16 on a GPU."""
    if util.find_spec("bitsandbytes") is None:
        return None
    import bitsandbytes
    import torch

    device = watch.device
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    layer = bitsandbytes.nn.Linear4bit(_INPUT, _WIDE, bias=False, quant_type="nf4", compute_dtype=dtype).to(
        device
    )
    # As in a loaded model; only then its fast kernels for processors with AVX512-BF16 are taken.
    layer.requires_grad_(requires_grad=False).eval()

    def run(rows: int) -> Callable[[], object]:
        states = torch.ones((rows, _INPUT), dtype=dtype, device=device)
        return lambda: layer(states)

    with torch.inference_mode():
        return _by_rows(run, _INPUT * _WIDE, watch)


def _onnx(name: str, watch: _Stopwatch, threads: int | None) -> LinearSpeed | None:
    """MatMulNBits of ONNX Runtime, or its MatMul in fp32."""
    # A graph is written with the package onnx, which building an engine needs as well.
    if util.find_spec("onnxruntime") is None or util.find_spec("onnx") is None:
        return None
    import numpy as np
    import onnxruntime

    device = watch.device
    provider = "CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads or 0
    width = _OUTPUT.get(name, _WIDE)
    session = onnxruntime.InferenceSession(_graph(name, width), sess_options=options, providers=[provider])
    if session.get_providers()[0] != provider:
        return None

    def run(rows: int) -> Callable[[], object]:
        binding = session.io_binding()
        where = "cpu" if device == "cpu" else "cuda"
        states = onnxruntime.OrtValue.ortvalue_from_numpy(np.ones((rows, _INPUT), np.float32), where)
        made = onnxruntime.OrtValue.ortvalue_from_shape_and_type((rows, width), np.float32, where)
        binding.bind_ortvalue_input("states", states)
        binding.bind_ortvalue_output("made", made)
        return lambda: session.run_with_iobinding(binding)

    return _by_rows(run, _INPUT * width, watch)


def _graph(name: str, width: int) -> bytes:
    """A graph of one linear layer; its weights are random bytes, which take as long as any."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    if name not in _BITS:
        weights = [numpy_helper.from_array(np.ones((_INPUT, width), np.float32), "weight")]
        node = helper.make_node("MatMul", ["states", "weight"], ["made"])
    else:
        bits, block = _BITS[name]
        blocks = _INPUT // block
        packed = rng.integers(0, 256, (width, blocks, block * bits // 8), dtype=np.uint8)
        weights = [
            numpy_helper.from_array(packed, "packed"),
            numpy_helper.from_array(np.ones((width, blocks), np.float32), "scales"),
        ]
        node = helper.make_node(
            "MatMulNBits",
            ["states", *(weight.name for weight in weights)],
            ["made"],
            domain="com.microsoft",
            K=_INPUT,
            N=width,
            bits=bits,
            block_size=block,
            accuracy_level=_ACCURACY,
        )
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["rows", _INPUT])],
        [helper.make_tensor_value_info("made", TensorProto.FLOAT, ["rows", width])],
        weights,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    data: bytes = model.SerializeToString()
    return data
