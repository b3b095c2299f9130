"""From graphs to TensorRT engines, on the GPU that will run them.

Written for TensorRT 10 and 11 by their documentation; see docs/guides/tensorrt.md for what has been run.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from egolive.assistant.backends.onnx.graph_limits import Ranges, sizes_of
from egolive.assistant.backends.tensorrt.tensorrt_engine import DECODE_ENGINE, DECODER_ENGINE, TOWER_ENGINE
from egolive.assistant.backends.tensorrt.tensorrt_runtime import (
    complaint,
    gpu_fingerprint,
    logger_of,
    strong_typing,
    tensorrt_module,
)
from egolive.assistant.model.engine_folder import (
    CACHE_FILE,
    DECODE_FILE,
    DECODER_FILE,
    TOWER_FILE,
    EngineCard,
    describe_files,
    files_folder,
    read_engine_card,
    verify_files,
)
from egolive.assistant.schema.profiles import PROFILE_FILE
from egolive.quantize.output_folder import link_files, new_folder, write_card
from egolive.streaming.errors import ConfigError, EngineError

__all__ = ["build_engines"]

_BUILT = (".engine", ".cache")
"""Endings of what is built from the graphs."""


def build_engines(folder: Path, *, device: torch.device | None = None) -> EngineCard:
    """Build the engines of a folder of graphs, in place; its card is written last.

    Engines that are there already stay until all new ones are built, and if that fails.

    Args:
        folder: Written by `build_onnx` with standard nodes; engines in it are built anew.
        device: On which they will run; the first GPU where none is given.

    Raises:
        EngineError: TensorRT or a GPU is missing, the folder is damaged, or a build failed.
        ConfigError: The folder is for another backend.
    """
    started = time.monotonic()
    trt = tensorrt_module()
    place = device or torch.device("cuda", 0)
    card = read_engine_card(folder)
    if card.backend != "tensorrt":
        raise ConfigError(
            f"{folder} is an engine for {card.backend}; give the checkpoint that it is made from"
        )
    # Engines and timings are made anew, whatever became of them.
    graphs = {name: known for name, known in card.files.items() if Path(name).suffix not in _BUILT}
    verify_files(folder, card.model_copy(update={"files": graphs}))
    ranges = sizes_of(card).ranges(card.shapes)
    plans: list[tuple[str, str, Sequence[Ranges]]] = [
        # One slice, and one decode step, have one shape each; prompts come in a range of them.
        (TOWER_FILE, TOWER_ENGINE, []),
        (DECODER_FILE, DECODER_ENGINE, ranges),
        (DECODE_FILE, DECODE_ENGINE, []),
    ]
    files = files_folder(folder, card)
    with new_folder(folder) as new, torch.cuda.device(place):
        link_files(files, graphs, new)
        cache = new / CACHE_FILE
        for name in (CACHE_FILE, PROFILE_FILE):
            if (files / name).is_file():
                shutil.copyfile(files / name, new / name)
        for graph, engine, shapes in plans:
            _build(trt, new / graph, new / engine, shapes, cache)
        built = gpu_fingerprint(trt, place)
        card = card.model_copy(
            update={
                "files": describe_files(new),
                "inside": "",
                "versions": card.versions | {"tensorrt": built["tensorrt"]},
                "made": card.made | {"built": built, "build_seconds": round(time.monotonic() - started, 1)},
            }
        )
        write_card(new, card)
    return card


def _build(trt: ModuleType, graph: Path, engine: Path, ranges: Sequence[Ranges], cache: Path) -> None:
    """Build one engine; what TensorRT measured for it is kept for the next."""
    builder = trt.Builder(logger_of(trt))
    network = builder.create_network(strong_typing(trt))
    parser = trt.OnnxParser(network, logger_of(trt))
    # From the file, not its bytes: the weights stand in another beside it.
    if not parser.parse_from_file(str(graph)):
        told = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
        raise EngineError(f"TensorRT does not take {graph}: {' '.join(told.split())[:300] or complaint(trt)}")
    config = builder.create_builder_config()
    # fp32 means fp32; products of 10 bits are on unless one says so.
    config.clear_flag(trt.BuilderFlag.TF32)
    for shapes in ranges:
        config.add_optimization_profile(_profile(builder, shapes, graph))
    timings = config.create_timing_cache(cache.read_bytes() if cache.is_file() else b"")
    # Timings of another GPU or version are left aside.
    if not config.set_timing_cache(timings, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"TensorRT cannot build {graph}: {complaint(trt)}")
    engine.write_bytes(plan)
    cache.write_bytes(config.get_timing_cache().serialize())


def _profile(builder: Any, shapes: Ranges, graph: Path) -> Any:
    """A range of shapes for which kernels are chosen."""
    profile = builder.create_optimization_profile()
    try:
        for name, (least, usual, most) in shapes.items():
            profile.set_shape(name, least, usual, most)
    except RuntimeError as error:
        raise EngineError(f"TensorRT does not take the shapes of {graph}: {error}") from error
    return profile
