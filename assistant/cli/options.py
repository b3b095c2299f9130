"""Options that several commands share, and the groups in which `--help` lists them.

Nothing here imports torch: what a user can get wrong is checked before that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from egolive.assistant.cli.printing import loading, note
from egolive.assistant.hands.hand_choice import HandChoice, Hands, choose_hands
from egolive.assistant.hands.model_file import find_model
from egolive.assistant.load import check_model, is_address, load_any_engine, profile_of
from egolive.assistant.model.checkpoint import BUNDLED, resolve_model
from egolive.assistant.model.engine_folder import is_engine_folder
from egolive.assistant.model.simulated_source import from_simulator
from egolive.assistant.schema.profiles import PROFILE_FILE, Profile, checkpoint_profile
from egolive.streaming.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from egolive.assistant.schema.answers import Question
    from egolive.assistant.schema.engine import Engine

__all__ = [
    "ASKED",
    "GIVEN",
    "MODEL",
    "OUTPUT",
    "DeviceOption",
    "DtypeOption",
    "HandOptions",
    "JsonFile",
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
    """How the model of a server is asked and read: egothinker-v1, qwen2-vl-instruct or nano."""
    yes: Annotated[bool, Parameter(negative="")] = False
    """Build the form of a large model that is best here without a question; see `egolive models`."""

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

    def profile(self) -> Profile | None:
        """The model's profile without loading it; None where it is not known before.

        Raises:
            EngineError: The model is not there or damaged.
            ConfigError: A mistake in its profile.
        """
        return profile_of(self.model, served_as=self.served_as)

    def chosen(self) -> ModelOptions:
        """These options with the form of the model that is best here, which may be built first.

        What was told by `--dtype` or `--provider`, and what is no large checkpoint, stays as it is.

        Raises:
            EngineError: It fits in no form, or the best one may not be built without a question.
            UsageError: The question was answered with no.
        """
        self.check()
        if self.dtype != "auto" or self.provider != "auto":
            return self
        # Imported here: only this needs what measures a machine.
        from egolive.assistant.cli.model_choice import choose

        found = choose(self.model, device=self.device, threads=self.threads, yes=self.yes)
        return replace(self, model=found.model, dtype=found.dtype, device=found.device, threads=found.threads)

    def load(self) -> Engine:
        """Load the model, telling so.

        Raises:
            EngineError: It is not there, damaged, of another kind, or too large.
            ConfigError: A setting that cannot work.
        """
        self.check()
        # An address may hold a password.
        with loading("the model of the server" if is_address(self.model) else self.model):
            engine = load_any_engine(
                self.model,
                device=self.device,
                dtype=self.dtype,
                threads=self.threads,
                graphs=self.graphs,
                provider=self.provider,
                served_as=self.served_as,
            )
        self._tell_profile()
        return engine

    def _tell_profile(self) -> None:
        """Say which profile was taken for a checkpoint that brings none."""
        if self.model == BUNDLED or is_address(self.model):
            return
        folder = resolve_model(self.model)
        if not is_engine_folder(folder) and not (folder / PROFILE_FILE).is_file():
            profile, reason = checkpoint_profile(folder)
            note(f"asked and read as {profile.name}: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOptions:
    """Who is asked about hands."""

    hands: Hands = "auto"
    """auto: the hand detector beside the model, where it is installed and the source is a real one; model:
    the model alone; detector: the detector alone for hands; off: nothing about hands and what they hold."""
    hands_model: str | None = None
    """The hand detector's model, hand_landmarker.task; `download` fetches it once from Google (7.8 MB)."""

    def found(self) -> Path | None:
        """The named model file, downloaded where that is asked for; None where none is named.

        Raises:
            ConfigError: It is not there, or cannot be downloaded.
        """
        return None if self.hands_model is None else find_model(self.hands_model)

    def choose(self, questions: Iterable[Question], source: object, *, tell: bool = True) -> HandChoice:
        """Decide for a source, and tell where the detector would be of use and is not there.

        Args:
            questions: What would be asked.
            source: What is looked at, as it was named.
            tell: Tell it.

        Raises:
            UsageError: The detector is asked for and cannot be had, or nothing is left to ask.
        """
        try:
            choice = choose_hands(
                self.hands, questions, model_file=self.hands_model, simulated=from_simulator(source)
            )
        except UsageError:
            raise
        except ConfigError as error:
            raise UsageError(str(error)) from error
        if choice.missing and tell:
            note(choice.missing)
        return choice
