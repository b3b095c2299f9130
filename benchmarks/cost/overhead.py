"""`egolive bench overhead`: processor time of everything but the engine, as a share of one core.

    egolive bench overhead

Decoding, capture, windows, scheduling, parsing, tracking, drawing, encoding and files are real; the engine
says a few words at once, and its own time is subtracted. The videos are made of the bundled clip.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import av
import cv2
import numpy as np
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from egolive.assistant.live.assistant import LIVE_QUESTIONS, Assistant
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import EventSink, Sink, VideoSink
from egolive.assistant.model.media import bundled_clip
from egolive.benchmarks.bench_output import check_places, print_figures
from egolive.benchmarks.robustness.scripted_engine import ScriptedEngine
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Image
from egolive.streaming.metrics import Metrics
from egolive.streaming.sources.opening import open_source
from egolive.streaming.video_writer import VideoWriter

__all__ = ["LIMITS", "measure", "overhead"]

_FPS = 30
_SIZES = {"720p30": (1280, 720), "1080p30": (1920, 1080)}
LIMITS = {"off": 0.12, "overlay": 0.40}
"""Shares of a core that 720p30 is to stay below, with overlay off and with overlay and encoding."""


def overhead(
    *,
    seconds: float = 20.0,
    realtime: bool = False,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """Measure what the loop costs beside the engine; prints a table, then one JSON line.

    Args:
        seconds: Length of the files that are played.
        realtime: Play them as a camera would; without it as recordings, of which no picture is passed over.
        json_file: Also write the JSON object here.
    """
    if not 1 <= seconds <= 3600:
        raise ConfigError("seconds are 1 to 3600")
    check_places(json_file)
    figures = measure(seconds=seconds, realtime=realtime)
    print_figures(figures, _table(figures), json_file)


def measure(*, seconds: float = 20.0, realtime: bool = False) -> dict[str, Any]:
    """The loop's cost for each size, with overlay off and with overlay and encoding.

    Args:
        seconds: Length of the files that are played.
        realtime: Play them as a camera would.

    Returns:
        For each run its cost in processor seconds a second of stream, and the frames lost of the file.
    """
    runs = []
    # One core is what is spoken of; OpenCV would take all for some milliseconds.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, Console(stderr=True).status("making files") as status:
            for name, size in _SIZES.items():
                status.update(f"making {name}")
                path = Path(folder) / f"{name}.mp4"
                _make(path, size, seconds)
                for overlay in (False, True):
                    status.update(f"playing {name}{', overlay and encoding' if overlay else ''}")
                    runs.append({"source": name, **_play(path, Path(folder), overlay, realtime)})
    finally:
        cv2.setNumThreads(threads)
    return {"seconds": seconds, "realtime": realtime, "runs": runs}


def _play(path: Path, folder: Path, overlay: bool, realtime: bool) -> dict[str, Any]:
    """One run; what the engine took is taken off, and decoding alone is measured beside it."""
    decoding = _decode(path)
    metrics = Metrics()
    engine = ScriptedEngine(None)
    with Assistant(engine, questions=LIVE_QUESTIONS, every=2, metrics=metrics) as assistant:
        sinks: list[Sink] = [EventSink(folder / "events.jsonl")]
        if overlay:
            sinks.append(VideoSink(VideoWriter(folder / "overlay.mp4")))
        source = open_source(path, realtime=realtime)
        started, before = time.perf_counter(), time.process_time()
        report = run_stream(
            source,
            assistant,
            sinks,
            fps=engine.profile.fps,
            slices=engine.profile.window_slices,
            metrics=metrics,
        )
        spent, wall = time.process_time() - before, time.perf_counter() - started
    length = report.captured / _FPS
    engine_share = engine.spent / length
    stages = metrics.stages()
    return {
        "overlay": overlay,
        "cpu_share": round(spent / length - engine_share, 4),
        "engine_share": round(engine_share, 4),
        "decode_share": round(decoding / length, 4),
        "wall_ms": {name: round(1e3 * stages[name].p50, 3) for name in ("track", "draw") if name in stages},
        "frames": report.captured,
        "lost": report.captured - report.shown,
        "answers": report.results,
        "times_realtime": round(length / wall, 2),
    }


def _decode(path: Path) -> float:
    """Processor seconds that decoding alone takes."""
    before = time.process_time()
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for _ in container.decode(video=0):
            pass
    return time.process_time() - before


def _make(path: Path, size: tuple[int, int], seconds: float) -> None:
    """Write the bundled clip there and back in another size, as cameras compress."""
    images = _clip()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=_FPS, options={"preset": "veryfast"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for image in islice(cycle(images), round(seconds * _FPS)):
            large = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
        container.mux(stream.encode(None))


def _clip() -> Sequence[Image]:
    with open_source(bundled_clip()) as clip:
        images = [frame.image for frame in clip]
    return images + images[-2:0:-1]


def _table(figures: dict[str, Any]) -> Table:
    drawn = Table(title=f"The loop beside its engine, {figures['seconds']:g} s of stream")
    for column in (
        "source",
        "overlay",
        "of a core",
        "limit",
        "decoding alone",
        "engine",
        "lost",
        "times real time",
    ):
        drawn.add_column(column, justify="left" if column in ("source", "overlay") else "right")
    for run in figures["runs"]:
        limit = LIMITS["overlay" if run["overlay"] else "off"] if run["source"] == "720p30" else None
        drawn.add_row(
            run["source"],
            "drawn and encoded" if run["overlay"] else "off",
            f"{run['cpu_share']:.1%}",
            "" if limit is None else f"{limit:.0%}",
            f"{run['decode_share']:.1%}",
            f"{run['engine_share']:.1%}",
            f"{run['lost']} of {run['frames']}",
            f"{run['times_realtime']:.1f}",
        )
    return drawn
