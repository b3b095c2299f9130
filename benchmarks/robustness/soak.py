"""`egolive bench soak`: hours of stream, fault injection, and whether anything leaks.

    egolive bench soak --hours 8             by a virtual clock, with a scripted engine
    egolive bench soak --real --minutes 20   nano on the bundled clip, over and over, at its own speed

Buffers, threads, scheduler, tracker, overlay and files are the real ones in both.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from cyclopts import Parameter
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from egolive.assistant.live.assistant import LIVE_QUESTIONS, Assistant
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import EventSink, Shown, Sink, VideoSink
from egolive.assistant.model.media import bundled_clip
from egolive.assistant.schema.answers import Question
from egolive.benchmarks.bench_output import check_places, print_figures, save_figure
from egolive.benchmarks.robustness.faults import Fault, as_rows, faults_table, quiet, stream_faults
from egolive.benchmarks.robustness.faults_process import process_faults
from egolive.benchmarks.robustness.soak_stream import Stream
from egolive.benchmarks.robustness.soak_watch import Judge, Probe, Sample, trends
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Image
from egolive.streaming.metrics import Metrics
from egolive.streaming.pipeline.run_report import Report
from egolive.streaming.sources.opening import open_source
from egolive.streaming.video_writer import VideoWriter

__all__ = ["measure_faults", "measure_real", "measure_virtual", "soak"]

_SAMPLES = 100
"""Samples over the whole run, about."""
_HOUR = 3600.0


def soak(
    *,
    hours: float = 8.0,
    real: bool = False,
    minutes: float = 20.0,
    faults: bool = True,
    quick: bool = False,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    plot_file: Annotated[Path | None, Parameter(name="--plot")] = None,
) -> None:
    """Run a stream for hours and let go wrong what can; prints tables, then one JSON line.

    Args:
        hours: Of made-up stream by a virtual clock; an hour takes some two minutes.
        real: In its place, nano on the bundled clip, over and over, by the clock on the wall.
        minutes: How long, with `--real`.
        faults: Also go through the plan of faults, which takes some two minutes.
        quick: A few minutes of stream and the faults that take no process of their own: half a minute.
        json_file: Also write the JSON object here.
        plot_file: Also draw memory over time into this PNG.
    """
    if not 0 < hours <= 1000 or not 0 < minutes <= 60_000:
        raise ConfigError("hours and minutes are more than 0")
    check_places(json_file, plot_file)
    if real:
        figures, samples = measure_real(minutes=1.0 if quick else minutes)
    else:
        figures, samples = measure_virtual(hours=0.1 if quick else hours)
    found = measure_faults(quick=quick) if faults else []
    figures["faults"] = as_rows(found)
    if plot_file is not None:
        _plot(samples, figures, plot_file)
    print_figures(figures, _tables(figures, found), json_file)


def measure_virtual(*, hours: float) -> tuple[dict[str, Any], list[Sample]]:
    """Hours of made-up stream with a disturbance every few minutes.

    Returns:
        The figures under the names that other programs read, and the samples they come from.
    """
    length = hours * _HOUR
    probe = Probe(max(30.0, length / _SAMPLES))
    started, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder, quiet(), _progress(length) as bar:
        stream = Stream(Path(folder), before=_disturb, extra=[probe, bar])
        report = stream.run(length)
    figures = _figures(stream.judge, report, probe.samples, length)
    figures |= {"kind": "virtual", "wall_s": round(time.perf_counter() - started, 1)}
    return figures | {"cpu_s": round(time.process_time() - cpu, 1)}, probe.samples


def measure_real(*, minutes: float, model: str = "nano") -> tuple[dict[str, Any], list[Sample]]:
    """A real model on the bundled clip, over and over, for so many minutes of the clock on the wall."""
    # Imported here: the made-up stream does without torch.
    from egolive.assistant.load_local import load_engine

    length = 60 * minutes
    probe = Probe(max(2.0, length / _SAMPLES))
    metrics = Metrics()
    started, cpu = time.perf_counter(), time.process_time()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = load_engine(model)
        stack.callback(engine.close)
        assistant = stack.enter_context(Assistant(engine, questions=LIVE_QUESTIONS, every=2, metrics=metrics))
        judge = Judge(assistant.scheduler.rules)
        bar = stack.enter_context(_progress(length))
        sinks: list[Sink] = [
            EventSink(folder / "events.jsonl"),
            VideoSink(VideoWriter(folder / "overlay.mp4")),
            *(judge, probe, bar),
        ]
        report = run_stream(
            open_source(bundled_clip(), realtime=True, loop=True),
            assistant,
            sinks,
            fps=engine.profile.fps,
            slices=engine.profile.window_slices,
            seconds=length,
            metrics=metrics,
        )
    figures = _figures(judge, report, probe.samples, length)
    age = metrics.stage("answer_age")
    figures |= {
        "kind": "real",
        "model": model,
        "answer_age_p95_s": None if age is None else round(age.p95, 3),
    }
    figures |= {"wall_s": round(time.perf_counter() - started, 1)}
    return figures | {"cpu_s": round(time.process_time() - cpu, 1)}, probe.samples


def measure_faults(*, quick: bool = False) -> list[Fault]:
    """Go through the plan of faults.

    Args:
        quick: Leave out those that take a process of their own.
    """
    with Console(stderr=True).status("faults") as status:
        found = []
        for fault in stream_faults():
            found.append(fault)
            status.update(f"faults: {fault.name}")
        for fault in () if quick else process_faults():
            found.append(fault)
            status.update(f"faults: {fault.name}")
    return found


def _figures(judge: Judge, report: Report, samples: list[Sample], length: float) -> dict[str, Any]:
    return {
        "hours": round(length / _HOUR, 4),
        **trends(samples, min(_HOUR, length / 4)),
        **judge.figures,
        "drops": report.drops,
        "requests": report.requests,
        "ended": report.ended,
    }


def _disturb(stream: Stream, now: float, image: Image) -> Image:
    """What happens in the course of hours; returns the picture as it is at this time."""
    if now == 0:
        return image
    if now % 1200 == 400:
        stream.camera.gone_until = now + 10
        stream.judge.expect(now + 10)
    if now % 7200 == 3300:
        stream.clock.advance(120.0)
        stream.judge.expect(stream.clock.now())
    if now % 300 == 150:
        stream.assistant.put(Question("ask", f"What is this, {now:.0f} seconds on?"))
    stream.engine.seconds = 7.0 if now % 900 < 20 else 0.15
    if now % 1800 > 1770:
        return np.zeros_like(image)
    if now % 3000 > 2970:
        return np.asarray(cv2.resize(image, (160, 90)), np.uint8)
    return image


@contextmanager
def _progress(length: float) -> Iterator[Sink]:
    """A sink that moves a bar as the stream goes on."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("stream", total=length)
        yield _Bar(progress, task)


class _Bar:
    """A sink that moves a progress bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def emit(self, shown: Shown) -> None:
        self._progress.update(self._task, completed=shown.frame.time)

    def note(self, event: Mapping[str, object]) -> None: ...

    def close(self) -> None: ...


def _tables(figures: dict[str, Any], faults: list[Fault]) -> RenderableType:
    title = f"{figures['hours']:g} h of stream, {figures['kind']}"
    drawn = Table(title=f"{title}, without the first {figures['warm_up_s'] / 60:.0f} min")
    drawn.add_column(no_wrap=True)
    drawn.add_column(justify="right")
    for name, label in (
        ("rss_slope_mb_h", "memory, MB an hour of stream"),
        ("rss_slope_error_mb_h", "  and the 95 % interval of that, +-"),
        ("rss_mb", "memory, MB"),
        ("objects_slope_h", "Python objects an hour"),
        ("threads", "threads"),
        ("handles", "open files"),
        ("pictures", "pictures shown"),
        ("answers", "answers in time"),
        ("late", "answers too late or stopped, not shown"),
        ("out_of_order", "out of order"),
        ("expired_shown", "expired, but shown as current"),
        ("drops", "drops"),
        ("gaps", "gaps"),
        ("recoveries", "disturbances"),
        ("recovery_s_max", "  seconds to a fresh answer, at most"),
        ("wall_s", "seconds it took"),
        ("cpu_s", "  of the processor"),
    ):
        drawn.add_row(label, _text(figures.get(name)))
    return Group(drawn, faults_table(faults)) if faults else drawn


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items()) or "none"
    return "-" if value is None else str(value)


def _plot(samples: list[Sample], figures: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8, 4), layout="constrained")
    axes = drawn.subplots()
    hours = [one.time / _HOUR for one in samples]
    axes.plot(hours, [one.rss / 1e6 for one in samples], label="memory of the process, MB")
    axes.axvline(figures["warm_up_s"] / _HOUR, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="hours of stream", ylabel="MB", ylim=(0, None))
    slope, error = figures["rss_slope_mb_h"], figures["rss_slope_error_mb_h"]
    within = "" if error is None else f" (+- {error:.2f})"
    axes.set_title(
        "too short for a slope"
        if slope is None
        else f"{slope:+.2f}{within} MB an hour behind the dotted line"
    )
    counts = axes.twinx()
    counts.plot(hours, [one.threads for one in samples], "--", color="tab:orange", label="threads")
    counts.plot(hours, [one.handles for one in samples], "--", color="tab:green", label="open files")
    counts.set(ylabel="threads, files", ylim=(0, None))
    lines = [*axes.get_lines()[:1], *counts.get_lines()]
    axes.legend(lines, [str(line.get_label()) for line in lines], fontsize=8, loc="lower right")
    save_figure(drawn, path)
