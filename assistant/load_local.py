"""From the name of a model to an engine that answers. Every way in which that can fail ends in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import Qwen2VLForConditionalGeneration
from transformers.utils import logging as transformers_logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.model.checkpoint import BUNDLED, Checkpoint, inspect_checkpoint, resolve_model
from egolive.assistant.model.engine_folder import (
    EngineCard,
    files_folder,
    is_engine_folder,
    read_engine_card,
    verify_files,
)
from egolive.assistant.model.positions import install_rope_override
from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.runtime.backend import Decoder, VisionTower
from egolive.assistant.runtime.familiarity import Familiarity
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.runtime.torch_threads import torch_threads
from egolive.assistant.schema.engine import EngineInfo
from egolive.assistant.schema.profiles import load_profile
from egolive.assistant.schema.tokenizer import load_tokenizer
from egolive.assistant.system import machine
from egolive.streaming.errors import ConfigError, EngineError

__all__ = ["Provider", "compute_in", "load_engine", "load_transformers_model"]

Provider = Literal["auto", "onnx", "tensorrt"]

_DTYPES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
}
_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
_SPARE = 1.1
"""Memory beside the weights that loading and a first answer need, as a factor."""


def load_engine(
    model: str = BUNDLED,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    graphs: bool = True,
    provider: Provider = "auto",
) -> LocalEngine[VisionTower, Decoder]:
    """Load a Qwen2-VL checkpoint into the torch engine, or an engine folder into the backend it was made for.

    From here on transformers' Qwen2-VL computes positions by the rule of transformers 4.x, in this whole
    process (see `egolive.assistant.model.positions`).

    Args:
        model: A checkpoint folder, an engine folder, a hub id ("owner/name"), or "nano", the bundled model.
        device: "cpu", "cuda", "cuda:1"; "auto" takes a GPU where there is one.
        dtype: "fp32" or "bf16"; "auto" is bf16 on a GPU, and fp32 on the CPU unless only bf16 fits its
            memory. An engine folder has its own.
        threads: CPU threads of this engine, torch's and its backend's, while its sessions work; the rest of
            the program keeps its own. None leaves both as they are.
        graphs: Let the torch and TensorRT engines decode by CUDA graphs where they run on CUDA.
        provider: What runs an engine folder of graphs: "onnx" is ONNX Runtime on `device`, "tensorrt" its
            TensorRT provider, "auto" what the folder was made for, which may be TensorRT itself.

    Raises:
        EngineError: The checkpoint or engine is not there, damaged, of another kind or version, or too large
            for the device.
        ConfigError: A setting that cannot work, or a mistake in the checkpoint's profile.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is at least 1, got {threads}")
    with torch_threads(threads):
        engine = _load(model, device, dtype, threads, graphs=graphs, provider=provider)
    engine.threads = threads
    engine.familiarity = Familiarity.from_folder(_files_of(model))
    return engine


def _files_of(model: str) -> Path:
    """The folder of a model's small files."""
    folder = resolve_model(model)
    return files_folder(folder, read_engine_card(folder)) if is_engine_folder(folder) else folder


def _load(
    model: str, device: str, dtype: str, threads: int | None, *, graphs: bool, provider: Provider
) -> LocalEngine[VisionTower, Decoder]:
    folder = resolve_model(model)
    if is_engine_folder(folder):
        if dtype != "auto":
            raise ConfigError(f"{folder} is an engine folder and has its own precision; leave --dtype away")
        return _open_engine(folder, device, threads, graphs=graphs, provider=provider)
    if provider != "auto":
        raise ConfigError(f"{folder} is a checkpoint, which torch runs; leave --provider away")
    place = _device(device)
    checkpoint = inspect_checkpoint(folder)
    if checkpoint.published is not None:
        raise EngineError(
            f"{folder} is quantised ({checkpoint.published}); make an engine of it, without loss: "
            f"egolive quantize {model} --to int4 --out ENGINE, and give ENGINE as the model"
        )
    precision = _precision(dtype, place, checkpoint)
    name = folder.resolve().name if Path(model).expanduser().is_dir() else model
    return _torch_engine(folder, name, place, precision, _NAMES[precision], graphs=graphs)


def _open_engine(
    folder: Path, device: str, threads: int | None, *, graphs: bool, provider: Provider
) -> LocalEngine[VisionTower, Decoder]:
    """An engine folder, once every file in it is what its card says."""
    card = read_engine_card(folder)
    verify_files(folder, card)
    if card.backend == "torch":
        if provider != "auto":
            raise ConfigError(f"{folder} is an engine for torch; leave --provider away")
        return _open_torch_engine(folder, card, device, graphs=graphs)
    if card.backend == "tensorrt" and provider == "auto":
        # Imported here: it needs nothing that a checkpoint needs, and the other way round.
        from egolive.assistant.backends.tensorrt.tensorrt_engine import load_tensorrt_engine

        return load_tensorrt_engine(folder, card, device=_device(device), graphs=graphs)
    try:
        from egolive.assistant.backends.onnx.onnx_engine import load_onnx_engine
        from egolive.assistant.backends.onnx.onnx_runtime import default_device
    except ImportError as error:
        raise EngineError(
            f"{folder} needs ONNX Runtime: pip install 'egolive[onnx]', or onnxruntime-gpu for a GPU"
        ) from error
    place = default_device() if device == "auto" else _device(device)
    return load_onnx_engine(folder, card, device=place, threads=threads, tensorrt=provider == "tensorrt")


def _open_torch_engine(folder: Path, card: EngineCard, device: str, *, graphs: bool) -> TorchEngine:
    """Weights that bitsandbytes has quantised, as transformers loads them."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise EngineError(f"{folder} needs bitsandbytes: pip install 'egolive[quantize]'") from error
    files = files_folder(folder, card)
    inspect_checkpoint(files)
    place = _device(device)
    # What is not quantised is stored as the checkpoint had it, and computed with as a checkpoint is.
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
    return _torch_engine(files, card.name, place, dtype, card.precision["decoder"], graphs=graphs)


def _torch_engine(
    folder: Path, name: str, device: torch.device, dtype: torch.dtype, precision: str, *, graphs: bool
) -> TorchEngine:
    # What is read at once comes first: a mistake in it is told before the weights are loaded.
    profile = load_profile(folder)
    preprocessor = Preprocessor.from_folder(folder)
    model = load_transformers_model(folder, device, dtype)
    compute_in(model, dtype)
    tokenizer = load_tokenizer(
        folder, image_token=model.config.image_token_id, video_token=model.config.video_token_id
    )
    info = EngineInfo(
        name=name,
        backend="torch",
        precision=precision,
        device=str(device),
        profile=profile.name,
        weight_bytes=sum(parameter.nbytes for parameter in model.parameters()),
    )
    return TorchEngine(
        model,
        tokenizer=tokenizer,
        preprocessor=preprocessor,
        profile=profile,
        info=info,
        graphs=graphs,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device is auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ConfigError(f"device is auto, cpu, cuda or cuda:N, got {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if index >= count:
        raise EngineError(
            f"torch sees {count} GPUs, so there is no cuda:{index}; use --device cpu or see `egolive doctor`"
        )
    return torch.device("cuda", index)


def _precision(name: str, device: torch.device, checkpoint: Checkpoint) -> torch.dtype:
    """The dtype to load with, if the weights fit the device's free memory in it."""
    if name in ("fp16", "float16", "half"):
        raise ConfigError("fp16 gives Qwen2-VL numbers that overflow; use bf16 or fp32")
    if name != "auto" and name not in _DTYPES:
        raise ConfigError(f"dtype is auto, fp32 or bf16, got {name!r}")
    free = _free_bytes(device)
    if name != "auto":
        choices = [_DTYPES[name]]
    elif device.type == "cuda":
        choices = [torch.bfloat16]
    else:
        choices = [torch.float32, torch.bfloat16]
    for dtype in choices:
        if not free or _needed_bytes(checkpoint, dtype) <= free:
            return dtype
    least = min(_needed_bytes(checkpoint, dtype) for dtype in choices)
    raise EngineError(
        f"{checkpoint.folder} needs about {least / 1e9:.1f} GB on {device} in {_NAMES[choices[-1]]}, "
        f"{free / 1e9:.1f} GB are free: close other programs, or use a smaller or quantised model"
    )


def _needed_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    # The decoder's last layer is computed in fp32, from a copy where the weights are not.
    head = 0 if dtype == torch.float32 else checkpoint.head_elements * 4
    return int((checkpoint.elements * dtype.itemsize + head) * _SPARE)


def _free_bytes(device: torch.device) -> int:
    """Free memory of the device; 0 where it is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return machine.memory()["available"]


def load_transformers_model(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None,
    *,
    quantization: QuantizationConfigMixin | None = None,
) -> Qwen2VLForConditionalGeneration:
    """The transformers model of a checkpoint folder, in evaluation mode.

    Args:
        folder: Of the checkpoint.
        device: Where its weights go.
        dtype: Of its weights; None takes them as they are stored.
        quantization: How transformers shall quantise them while it loads them.

    Raises:
        EngineError: It cannot be loaded, or is not whole.
    """
    install_rope_override()
    try:
        with _quiet_transformers():
            model, report = Qwen2VLForConditionalGeneration.from_pretrained(
                folder,
                dtype=dtype or "auto",
                device_map={"": device},
                quantization_config=quantization,
                attn_implementation="sdpa",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (
        Exception
    ) as error:  # transformers, accelerate and safetensors raise many kinds for a broken checkpoint
        raise EngineError(f"{folder} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise EngineError(
            f"{folder} lacks {len(missing)} of the model's weights, first {missing[0]}; "
            "download it again or save the whole model"
        )
    model.requires_grad_(requires_grad=False)
    return model.eval()


def compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Let all of a model compute in `dtype`, also where bitsandbytes has quantised its layers.

    transformers 5 leaves most of what stands beside quantised layers as it is stored, whatever it is told,
    and layers in 4 bits keep to the type that they were made with.
    """
    for weights in model.parameters():
        if weights.is_floating_point():
            weights.data = weights.data.to(dtype)
    for layer in model.modules():
        if hasattr(layer, "compute_dtype"):
            layer.compute_dtype = dtype  # type: ignore[assignment]  # to mypy it might be a tensor


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without transformers' progress bars and reports: what matters in them is raised as one line."""
    verbosity = transformers_logging.get_verbosity()
    progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if progress:
            transformers_logging.enable_progress_bar()
