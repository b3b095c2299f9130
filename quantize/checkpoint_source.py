"""What an engine is made from: a checkpoint, or what a training run left behind, adapters merged."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from egolive.assistant.load_local import load_transformers_model
from egolive.assistant.model.checkpoint import inspect_checkpoint, resolve_model
from egolive.assistant.runtime.familiarity import FAMILIARITY_FILE
from egolive.assistant.schema.profiles import load_profile, save_profile
from egolive.quantize.output_folder import copy_small_files
from egolive.streaming.errors import EngineError
from egolive.streaming.json_files import read_json_object

__all__ = ["checkpoint_of"]

_ADAPTER = "adapter_config.json"


@contextmanager
def checkpoint_of(model: str) -> Iterator[Path]:
    """A checkpoint folder for a model's name; what had to be merged for it is gone afterwards.

    Args:
        model: "nano", a hub id, a checkpoint folder, the output folder of a training run (its `model` is
            taken), or a folder of LoRA weights (they are merged into the base that they name).

    Raises:
        EngineError: There is no such thing, or it cannot be used.
    """
    folder = resolve_model(model)
    if not (folder / "config.json").is_file() and (folder / "model").is_dir():
        folder = folder / "model"
    if not (folder / _ADAPTER).is_file():
        inspect_checkpoint(folder)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="egolive-merged-") as merged:
        _merge(folder, Path(merged))
        yield Path(merged)


def _merge(adapter: Path, out: Path) -> None:
    """Write the checkpoint that an adapter's base becomes with it."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise EngineError(
            f"{adapter} holds LoRA weights: pip install 'egolive[train]' to merge them"
        ) from error
    settings = read_json_object(
        adapter / _ADAPTER, remedy="copy or train the adapter again", error=EngineError
    )
    name = settings.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise EngineError(f"{adapter / _ADAPTER} does not name the model that it was trained on")
    base = resolve_model(name)
    model = load_transformers_model(base, torch.device("cpu"), None)
    try:
        whole = PeftModel.from_pretrained(model, str(adapter), local_files_only=True)
    except Exception as error:  # peft and safetensors raise many kinds for a broken adapter
        reason = " ".join(str(error).split())[:200]
        raise EngineError(f"the LoRA weights in {adapter} do not fit {name}: {reason}") from error
    whole.merge_and_unload(safe_merge=True).save_pretrained(out)
    copy_small_files(base, out)
    # What was measured of the base's weights says nothing about these.
    (out / FAMILIARITY_FILE).unlink(missing_ok=True)
    profile = load_profile(adapter if (adapter / "egolive.json").is_file() else base)
    save_profile(replace(profile, calibration=None), out)
