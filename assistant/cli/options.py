"""Options that several commands share, and the groups in which `--help` lists them.

Nothing here imports torch: what a user can get wrong is checked before that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from egolive.assistant.cli.printing import loading
from egolive.assistant.load import check_model, is_address, load_any_engine
from egolive.assistant.schema.profiles import Profile
from egolive.streaming.errors import UsageError

if TYPE_CHECKING:
    from egolive.assistant.schema.engine import Engine

__all__ = [
    "ASKED",
    "GIVEN",
    "MODEL",
    "OUTPUT",
    "DeviceOption",
    "DtypeOption",
    "JsonFile",
    "LookOptions",
    "ModelOption",
    "ModelOptions",
    "PlotFile",
    "ThreadsOption",
    "check_device",
    "open_model",
]

GIVEN = Group("Input", sort_key=1)
ASKED = Group("Questions and answers", sort_key=2)
MODEL = Group("Model", sort_key=3)
OUTPUT = Group("Output", sort_key=4)

_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]+)?")
_DTYPES = ("auto", "fp32", "bf16", "float32", "bfloat16")


def check_device(device: str) -> None:
    """Refuse what is no device.

    Raises:
        UsageError: It is none of auto, cpu, cuda and cuda:N.
    """
    if not _DEVICE.fullmatch(device):
        raise UsageError(f"--device is auto, cpu, cuda or cuda:N, got {device!r}")


def _check_dtype(dtype: str) -> None:
    if dtype in ("fp16", "float16", "half"):
        raise UsageError("--dtype fp16 gives Qwen2-VL numbers that overflow; use bf16 or fp32")
    if dtype not in _DTYPES:
        raise UsageError(f"--dtype is auto, fp32 or bf16, got {dtype!r}")


def _check_threads(threads: int | None) -> None:
    if threads is not None and threads < 1:
        raise UsageError(f"--threads is 1 or more, got {threads}")


DeviceOption = Annotated[str, Parameter(group=MODEL, validator=lambda _, given: check_device(given))]
DtypeOption = Annotated[str, Parameter(group=MODEL, validator=lambda _, given: _check_dtype(given))]
ThreadsOption = Annotated[
    int | None, Parameter(group=MODEL, validator=lambda _, given: _check_threads(given))
]
ModelOption = Annotated[str, Parameter(group=MODEL, alias="--engine")]
JsonFile = Annotated[Path | None, Parameter(name="--json", group=OUTPUT)]
PlotFile = Annotated[Path | None, Parameter(name="--plot", group=OUTPUT)]


def open_model(
    model: str, *, device: str = "auto", dtype: str = "auto", threads: int | None = None
) -> Engine:
    """Load a model by its name, telling so; what can be checked without torch is checked first.

    Raises:
        EngineError: It is not there, damaged, of another kind, or too large.
        ConfigError: A setting that cannot work.
    """
    return ModelOptions(model=model, device=device, dtype=dtype, threads=threads).load()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which model answers, and where it runs."""

    model: Annotated[str, Parameter(alias="--engine")] = "nano"
    """`nano`, the bundled model; a checkpoint folder; an engine folder that `egolive quantize` wrote; or a
    hub id, such as hyf015/EgoThinker-v1; or the address of an OpenAI-compatible server, such as
    http://localhost:8000/v1, to which the pictures then go. `--engine` says the same."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: str = "auto"
    """auto, fp32 or bf16; an engine folder has its own."""
    threads: int | None = None
    """CPU threads of the model."""
    graphs: bool = True
    """Decode by CUDA graphs where torch or TensorRT runs on CUDA."""
    provider: Literal["auto", "onnx", "tensorrt"] = "auto"
    """What runs an engine folder of graphs: onnx, ONNX Runtime on `--device`; tensorrt, ONNX Runtime's
    TensorRT provider; auto, what the folder was made for."""

    served_as: str = "egothinker-v1"
    """How the model of a server is asked and read: egothinker-v1 or nano."""

    def check(self) -> None:
        """Tell what is wrong with the settings without loading anything: no torch, no network.

        Raises:
            EngineError: The model is not there, damaged or of another kind.
            ConfigError: A setting that cannot work.
        """
        check_device(self.device)
        _check_dtype(self.dtype)
        _check_threads(self.threads)
        check_model(self.model, dtype=self.dtype, provider=self.provider, served_as=self.served_as)

    def load(self) -> Engine:
        """Load the model, telling so.

        Raises:
            EngineError: It is not there, damaged, of another kind, or too large.
            ConfigError: A setting that cannot work.
        """
        self.check()
        # An address may hold a password.
        with loading("the model of the server" if is_address(self.model) else self.model):
            return load_any_engine(
                self.model,
                device=self.device,
                dtype=self.dtype,
                threads=self.threads,
                graphs=self.graphs,
                provider=self.provider,
                served_as=self.served_as,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LookOptions:
    """How large the model sees pictures; its own habit where nothing is given."""

    min_pixels: int | None = None
    """Least pixels at which the model sees a picture."""
    max_pixels: int | None = None
    """Most pixels at which the model sees a picture."""
    height: int | None = None
    """Exact height at which the model sees pictures, rounded to a multiple of 28; with `--width`."""
    width: int | None = None
    """Exact width at which the model sees pictures, rounded to a multiple of 28; with `--height`."""

    def __post_init__(self) -> None:
        for name in ("min_pixels", "max_pixels", "height", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} is 1 or more, got {value}")
        if (self.height is None) != (self.width is None):
            raise UsageError("an exact size needs --height and --width")
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise UsageError(f"--min-pixels {self.min_pixels} is more than --max-pixels {self.max_pixels}")

    def applied_to(self, profile: Profile) -> Profile:
        """The profile with these sizes in place of its own."""
        if self.height is not None and self.width is not None:
            size = (max(28, round(self.height / 28) * 28), max(28, round(self.width / 28) * 28))
            return replace(profile, picture=size)
        if self.min_pixels is None and self.max_pixels is None:
            return profile
        return replace(
            profile,
            picture=None,
            image_pixels=self._limits(profile.image_pixels),
            video_pixels=self._limits(profile.video_pixels),
        )

    def _limits(self, own: tuple[int, int]) -> tuple[int, int]:
        """Limits in which one that is given moves the other out of its way."""
        least = self.min_pixels or min(own[0], self.max_pixels or own[0])
        return least, self.max_pixels or max(own[1], least)
