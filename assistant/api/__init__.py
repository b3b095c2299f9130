"""EgoThinker, live: intent, next step, and boxes round hands and what they hold, from a first-person camera.

Example:
    >>> import egolive
    >>> with egolive.load_model("nano") as model:
    ...     answer = model.ask(egolive.example_clip(), "left hand", task="ground")
    ...     with egolive.open_source(egolive.example_clip()) as source:
    ...         for result in model.stream(source, tasks=["hands"], seconds=0.5):
    ...             picture = result.annotated()
    >>> picture.shape
    (252, 448, 3)

Names are imported when they are first used: `import egolive` alone loads neither torch nor OpenCV.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

# Libraries that report how they are used, which some do unless told otherwise: ONNX Runtime sends events to
# its maker and keeps a number for this machine in the home folder. They read this when they are imported, and
# every module of ours imports this one first.
os.environ.update(
    ORT_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    GRADIO_ANALYTICS_ENABLED="False",
    DO_NOT_TRACK="1",
)

if TYPE_CHECKING:
    from egolive.assistant.schema.answers import Answer, Question
    from egolive.frame_result import FrameResult, TrackedBox
    from egolive.model import Model, example_clip, load_model
    from egolive.stream import Stream
    from egolive.streaming.errors import (
        ConfigError,
        DataError,
        EgoliveError,
        EngineError,
        SinkError,
        SourceError,
        SourceLost,
        UsageError,
    )
    from egolive.streaming.frames import Box, Frame, Interval
    from egolive.streaming.hands import Hand
    from egolive.streaming.sources.opening import open_source
    from egolive.streaming.sources.source import Source

    __version__: str

__all__ = [
    "Answer",
    "Box",
    "ConfigError",
    "DataError",
    "EgoliveError",
    "EngineError",
    "Frame",
    "FrameResult",
    "Hand",
    "Interval",
    "Model",
    "Question",
    "SinkError",
    "Source",
    "SourceError",
    "SourceLost",
    "Stream",
    "TrackedBox",
    "UsageError",
    "__version__",
    "example_clip",
    "load_model",
    "open_source",
]

_MODULES = {
    "egolive.assistant.schema.answers": ("Answer", "Question"),
    "egolive.frame_result": ("FrameResult", "TrackedBox"),
    "egolive.model": ("Model", "example_clip", "load_model"),
    "egolive.stream": ("Stream",),
    "egolive.streaming.errors": (
        "ConfigError",
        "DataError",
        "EgoliveError",
        "EngineError",
        "SinkError",
        "SourceError",
        "SourceLost",
        "UsageError",
    ),
    "egolive.streaming.frames": ("Box", "Frame", "Interval"),
    "egolive.streaming.hands": ("Hand",),
    "egolive.streaming.sources.opening": ("open_source",),
    "egolive.streaming.sources.source": ("Source",),
}
"""Where each name comes from."""
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


if not TYPE_CHECKING:
    # Type checkers would take any name for one of this module.
    def __getattr__(name: str) -> object:
        """Import a public name when it is used for the first time (PEP 562)."""
        value: object
        if name == "__version__":
            from importlib.metadata import version

            value = version("egolive")
        elif name in _HOMES:
            value = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """The public names, and what Python itself keeps in a module."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
