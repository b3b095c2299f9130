"""From any name of a model to an engine, on this machine or behind an address.

What is told wrong at once does not wait for torch: it is imported only where a model is loaded here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from egolive.assistant.model.checkpoint import inspect_checkpoint, model_folder, resolve_model
from egolive.assistant.model.engine_folder import files_folder, is_engine_folder, read_engine_card
from egolive.assistant.schema.profiles import NANO, PROFILES, SIMULATED_SCENES, Profile, load_profile
from egolive.streaming.errors import ConfigError

if TYPE_CHECKING:
    from egolive.assistant.load_local import Provider
    from egolive.assistant.schema.engine import Engine

__all__ = ["check_model", "is_address", "load_any_engine", "profile_of"]


def is_address(model: str) -> bool:
    """Whether a model's name is the address of a server."""
    return model.startswith(("http://", "https://"))


def check_model(
    model: str, *, dtype: str = "auto", provider: Provider = "auto", served_as: str = "egothinker-v1"
) -> None:
    """Tell what is wrong with a model's name or folder without loading anything: no torch, no network.

    Raises:
        EngineError: It is not there, damaged or of another kind.
        ConfigError: A setting that does not fit it.
    """
    if is_address(model):
        if served_as not in PROFILES:
            raise ConfigError(f"served_as is one of {', '.join(PROFILES)}, got {served_as!r}")
        return
    folder = model_folder(model)
    if folder is None:
        return
    if is_engine_folder(folder):
        read_engine_card(folder)
        if dtype != "auto":
            raise ConfigError(f"{folder} is an engine folder and has its own precision; leave --dtype away")
        return
    inspect_checkpoint(folder)
    if provider != "auto":
        raise ConfigError(f"{folder} is a checkpoint, which torch runs; leave --provider away")


def profile_of(model: str, *, served_as: str = "egothinker-v1") -> Profile | None:
    """The profile of a model without loading it; None of a hub id, whose files may not be here yet.

    Raises:
        EngineError: It is not there or damaged.
        ConfigError: A mistake in its profile.
    """
    if is_address(model):
        profile = PROFILES[served_as]
        # Whoever serves a nano serves one that was trained on the simulator.
        return replace(profile, domain=SIMULATED_SCENES) if profile == NANO else profile
    folder = model_folder(model)
    if folder is None:
        return None
    if is_engine_folder(folder):
        folder = files_folder(folder, read_engine_card(folder))
    return load_profile(folder)


def load_any_engine(
    model: str = "nano",
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    graphs: bool = True,
    provider: Provider = "auto",
    served_as: str = "egothinker-v1",
) -> Engine:
    """Load a model, or reach the server that holds it.

    Args:
        model: As `egolive.assistant.load_local.load_engine` takes it, or the address of an OpenAI-compatible
            server, such as http://localhost:8000/v1, to which the pictures then go.
        device: Of a model that is loaded here, as the following ones; a server has its own.
        dtype: "auto", "fp32" or "bf16".
        threads: CPU threads.
        graphs: Decode by CUDA graphs where possible.
        provider: What runs an engine folder of graphs.
        served_as: How the model of a server is asked and read: the name of a built-in profile.

    Raises:
        EngineError: It is not there, damaged, of another kind, or too large; or the server cannot be reached.
        ConfigError: A setting that cannot work.
    """
    check_model(model, dtype=dtype, provider=provider, served_as=served_as)
    if is_address(model):
        from egolive.assistant.backends.remote.remote_engine import RemoteEngine

        profile = profile_of(model, served_as=served_as)
        assert profile is not None
        return RemoteEngine(model, profile)
    # A hub id that cannot be reached is told before torch is imported too.
    resolve_model(model)
    from egolive.assistant.load_local import load_engine

    return load_engine(model, device=device, dtype=dtype, threads=threads, graphs=graphs, provider=provider)
