"""Writes simulated episodes to disk, in several processes, and reads them back.

A data set is a folder of `NNNNN.mp4` and `NNNNN.json` with one `manifest.json`; a finished episode is never
drawn again, so a run that was cut off goes on where it stopped.
"""

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import av
import cv2
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from egolive.assistant.cli.options import OUTPUT
from egolive.assistant.cli.printing import note
from egolive.streaming.errors import DataError
from egolive.streaming.json_files import read_json_object
from egolive.train.simulator.episode import Episode, FrameTruth, Step, episode_of, plan_episode, render_frame

__all__ = ["LOOK", "load_episode", "simulate"]

LOOK = 2
"""Counts changes of the pictures or labels: folders written with different numbers are not mixed."""
_MANIFEST = "manifest.json"
_MOST_BYTES = 64 * 1024**2
"""Of the facts of an episode."""


def simulate(
    out: Annotated[Path, Parameter(group=OUTPUT)],
    *,
    episodes: int,
    split: str = "train",
    seed: int = 0,
    fps: float = 10.0,
    size: Annotated[tuple[int, int], Parameter(negative="")] = (448, 252),
    workers: int | None = None,
) -> None:
    """Write a data set of simulated episodes, or finish one that was begun.

    Args:
        out: Folder to write to; made where it is missing.
        episodes: How many; may be raised later to lengthen the data set.
        split: "train" or "test".
        seed: Seed of the data set; with split and number it decides every pixel.
        fps: Frames a second.
        size: Width and height in pixels, both even.
        workers: Processes; one for each core where it is not given.

    Raises:
        DataError: The folder holds another data set, or a setting cannot work.
    """
    if episodes < 1 or fps <= 0 or seed < 0:
        raise DataError("simulate needs at least 1 episode, an fps above 0 and a seed of 0 or more")
    if workers is not None and workers < 1:
        raise DataError(f"--workers is 1 or more, got {workers}")
    if split not in ("train", "test"):
        raise DataError(f"split {split!r} does not exist: choose train or test")
    if min(size) < 64 or size[0] % 2 or size[1] % 2:
        raise DataError(f"size {size[0]}x{size[1]} cannot be written: use even numbers from 64 on")
    _claim(out, {"split": split, "seed": seed, "fps": fps, "size": list(size), "look": LOOK})
    missing = [k for k in range(episodes) if not (out / f"{k:05d}.json").is_file()]
    count = min(workers or os.cpu_count() or 1, max(1, len(missing)))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"simulating {split} episodes", total=episodes, completed=episodes - len(missing))
        if count == 1:
            for k in missing:
                _write_episode(out, k, split, seed, fps, size)
                bar.advance(task)
        else:
            _write_in_processes(
                count, out, missing, split, seed, fps, size, advance=lambda: bar.advance(task)
            )
    if missing:
        note(f"wrote {out}: {len(missing)} episodes, {episodes} in all")


def _write_in_processes(
    count: int,
    out: Path,
    missing: Sequence[int],
    split: str,
    seed: int,
    fps: float,
    size: tuple[int, int],
    *,
    advance: Callable[[], None],
) -> None:
    # spawn, not fork: the caller may already hold threads (torch, OpenCV)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        jobs = [pool.submit(_write_episode, out, k, split, seed, fps, size) for k in missing]
        try:
            for job in as_completed(jobs):
                job.result()
                advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Make the folder, or check that what it holds was written with the same settings."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to {out}: {error.strerror}") from error
    path = out / _MANIFEST
    if path.is_file():
        found = read_json_object(path, remedy="delete it or choose another folder")
        if found != settings:
            shown = ", ".join(f"{k} {found.get(k)} != {v}" for k, v in settings.items() if found.get(k) != v)
            raise DataError(
                f"{out} holds another data set ({shown or 'unknown settings'}): choose another folder"
            )
        return
    if any(out.iterdir()):
        raise DataError(f"{out} is not empty and has no {_MANIFEST}: choose another folder")
    _store(path, json.dumps(settings) + "\n")


def _store(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _write_episode(out: Path, index: int, split: str, seed: int, fps: float, size: tuple[int, int]) -> None:
    """Write one episode; its JSON comes last and marks it as finished."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        _encode_episode(out, index, split, seed, fps, size)
    finally:
        # The setting is the whole process's, which may be a program that only called `simulate`.
        cv2.setNumThreads(threads)


def _encode_episode(out: Path, index: int, split: str, seed: int, fps: float, size: tuple[int, int]) -> None:
    plan = plan_episode(index, seed=seed, split=split)
    rate = Fraction(fps).limit_denominator(1000)
    path = out / f"{index:05d}.mp4"
    part = out / f".{index:05d}.{os.getpid()}.part"
    frames = []
    # x264's macroblock tree gives other bytes on each run, even with one thread
    options = {"crf": "20", "preset": "veryfast", "x264-params": "mbtree=0"}
    with av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = size[0], size[1], "yuv420p"
        stream.codec_context.thread_count = 1
        for k in range(int(plan.duration * fps)):
            image, truth = render_frame(plan, k / fps, size)
            frames.append(truth)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    part.replace(path)
    facts = {
        "episode": asdict(episode_of(plan, fps=fps, size=size)),
        "frames": [[f.time, f.boxes, f.held, f.states, f.step] for f in frames],
    }
    _store(out / f"{index:05d}.json", json.dumps(facts, separators=(",", ":")))


def load_episode(path: Path) -> tuple[Episode, list[FrameTruth]]:
    """Read the facts of an episode from its `NNNNN.json` (the path of its video does as well).

    Raises:
        DataError: The file is missing or is not an episode.
    """
    path = path.with_suffix(".json")
    try:
        facts = read_json_object(
            path,
            where=f"cannot read the episode {path}",
            remedy="write it again with egolive simulate",
            most=_MOST_BYTES,
        )
        told = facts["episode"]
        told["steps"] = tuple(Step(**step) for step in told["steps"])
        frames = [
            FrameTruth(time, {name: tuple(box) for name, box in boxes.items()}, held, states, step)
            for time, boxes, held, states, step in facts["frames"]
        ]
        return Episode(**told), frames
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a simulated episode: write it again with egolive simulate") from error
