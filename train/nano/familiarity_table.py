"""Makes the table by which a model trained on the simulator tells its world from others, and measures it.

Pictures of the simulator's training split go through the vision tower, drawn as they are and as cameras and
video files spoil them; `egolive.assistant.runtime.familiarity` says what the table holds. The limit is set on
episodes of the same split that the table does not know. Nothing is drawn by chance: the same weights give the
same table on the same machine.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from egolive.assistant.load_local import load_engine
from egolive.assistant.model.checkpoint import resolve_model
from egolive.assistant.runtime.backend import Decoder, VisionTower
from egolive.assistant.runtime.familiarity import Familiarity
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.streaming.errors import DataError, SourceError
from egolive.streaming.frames import Frame, Image
from egolive.streaming.sources.opening import open_source
from egolive.train.evaluate.measures import bootstrap
from egolive.train.simulator.episode import plan_episode, render_frame

__all__ = ["Settings", "make_table", "measure_table", "run_familiarity", "simulated_looks"]

Look = tuple[Image, ...]
"""What one encoding sees: a picture, or the two frames of a slice."""
_PICTURES = 3
"""Moments of an episode."""
_SLICE = 0.5
"""Seconds between the two frames of a slice."""
_INSIDE = 0.99
"""Share of the held-out looks within what the limit is set by."""
_MARGIN = 0.1
"""How far beyond that it lies, in distances from the middle one of the held-out looks."""
_CLEAR = 4.0
"""The middle one of the held-out looks lies so many scales inside."""
_FAMILIAR = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a table is made of."""

    episodes: int = 100
    """Of the training split: the table describes their pictures."""
    held_out: int = 30
    """The following ones, on which the limit is set."""
    directions: int = 96
    """Along which tokens are compared: those in which they vary most."""
    tokens: int = 4096
    """That the table keeps, drawn from all."""
    seed: int = 0
    """Of the simulator."""


def run_familiarity(
    model: str,
    settings: Settings,
    *,
    out: Path | None = None,
    test: int = 100,
    real: Sequence[Path] = (),
    progress: Callable[[Iterable[int], str], Iterable[int]] = lambda numbers, _: numbers,
) -> tuple[Path, dict[str, Any]]:
    """Make the table of a model, write it and measure it.

    Args:
        model: A checkpoint or engine that runs here.
        settings: What it is made of.
        out: Folder of the table; that of the model without it.
        test: Episodes of the test split that it is measured on.
        real: Folders, pictures and videos of other scenes that it is measured on.
        progress: Wraps the numbers of episodes, with what is done.

    Returns:
        The file that was written, and the figures of `measure_table`.

    Raises:
        EngineError: The model cannot be loaded.
        DataError: There is nothing to look at in `real`, or the folder cannot be written.
    """
    folder = out or resolve_model(model)
    with closing(load_engine(model, device="cpu")) as engine:
        table = make_table(engine, settings, progress)
        try:
            path = table.save(folder)
        except OSError as error:
            raise DataError(f"{folder}: cannot be written ({error.strerror or error})") from error
        found = Familiarity.from_folder(folder)
        assert found is not None
        return path, measure_table(engine, found, test=test, seed=settings.seed, real=real, progress=progress)


def make_table(
    engine: LocalEngine[VisionTower, Decoder],
    settings: Settings,
    progress: Callable[[Iterable[int], str], Iterable[int]] = lambda numbers, _: numbers,
) -> Familiarity:
    """The table of a loaded model, which sees pictures of one fixed size.

    Raises:
        DataError: Its profile names no size of pictures, or there are too few tokens.
    """
    if engine.profile.picture is None:
        raise DataError(f"{engine.info.name} sees pictures of any size: a table is of one, see its profile")
    height, width = engine.profile.picture
    looks = simulated_looks("train", range(settings.episodes), settings.seed, progress)
    tokens = torch.cat([_tokens(engine, look, height, width) for look in looks]).double().numpy()
    if len(tokens) < max(settings.tokens, settings.directions + 1):
        raise DataError(f"{len(tokens)} visual tokens are too few for a table of {settings.tokens}")
    mean = tokens.mean(axis=0)
    # Of a covariance matrix: the eigenvalues are the variances along the eigenvectors, smallest first.
    values, vectors = np.linalg.eigh(np.cov(tokens, rowvar=False))
    chosen = np.argsort(values)[::-1][: settings.directions]
    axes = vectors[:, chosen].T / np.sqrt(np.maximum(values[chosen], 1e-12))[:, None]
    # An eigenvector may come with either sign.
    axes *= np.where(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)] < 0, -1, 1)[:, None]
    kept = np.random.default_rng(settings.seed).choice(len(tokens), settings.tokens, replace=False)
    tensors = {
        "mean": torch.from_numpy(mean),
        "axes": torch.from_numpy(axes),
        "known": torch.from_numpy((tokens[np.sort(kept)] - mean) @ axes.T),
        "limit": torch.ones(1),
        "scale": torch.ones(1),
    }
    table = Familiarity(tensors, height=height, width=width)
    others = range(settings.episodes, settings.episodes + settings.held_out)
    apart = _distances(engine, table, simulated_looks("train", others, settings.seed, progress))
    middle, last = float(np.median(apart)), float(np.quantile(apart, _INSIDE))
    limit = last + _MARGIN * (last - middle)
    tensors |= {"limit": torch.tensor([limit]), "scale": torch.tensor([(limit - middle) / _CLEAR])}
    made = (
        f"{settings.tokens} of {len(tokens)} tokens of {settings.episodes} episodes of the training split, "
        f"seed {settings.seed}; limit by {settings.held_out} others"
    )
    return Familiarity(tensors, height=height, width=width, made=made)


def measure_table(
    engine: LocalEngine[VisionTower, Decoder],
    table: Familiarity,
    *,
    test: int,
    seed: int = 0,
    real: Sequence[Path] = (),
    progress: Callable[[Iterable[int], str], Iterable[int]] = lambda numbers, _: numbers,
) -> dict[str, Any]:
    """Shares of pictures that are marked as unfamiliar.

    Returns:
        `simulated_marked` of the looks at test episodes, `real_marked` of other pictures and of frames of
        videos, each with `_ci` and `_n`, and `real_sources`, the share of each file.
    """
    found: dict[str, Any] = {"limit": round(float(table.tensors["limit"][0]), 4), "made": table.made}
    marked, owners = [], []
    for number in progress(range(test), "test episodes"):
        for look in simulated_looks("test", [number], seed):
            marked.append(_score(engine, table, look) <= _FAMILIAR)
            owners.append(number)
    found |= _share("simulated_marked", marked, owners)
    sources: dict[str, float] = {}
    marked, names = [], []
    for path in real_files(real):
        looks = [_score(engine, table, look) <= _FAMILIAR for look in _looks_at(path)]
        if looks:
            sources[path.name] = round(float(np.mean(looks)), 4)
            marked += looks
            names += [path.name] * len(looks)
    if real and not marked:
        raise DataError(f"{', '.join(map(str, real))}: nothing there can be looked at")
    return found | _share("real_marked", marked, names) | {"real_sources": sources}


def simulated_looks(
    split: str,
    numbers: Iterable[int],
    seed: int,
    progress: Callable[[Iterable[int], str], Iterable[int]] = lambda numbers, _: numbers,
) -> Iterator[Look]:
    """Looks at simulated episodes: for some moments a picture, a slice, and a picture that was spoilt."""
    for number in progress(numbers, f"looking at {split} episodes"):
        plan = plan_episode(number, seed=seed, split=split)
        rng = random.Random(f"familiarity {split} {seed} {number}")
        for _ in range(_PICTURES):
            time = rng.uniform(0, max(0.0, plan.duration - _SLICE - 0.1))
            picture, _ = render_frame(plan, time)
            later, _ = render_frame(plan, time + _SLICE)
            yield (picture,)
            yield (picture, later)
            yield (_spoilt(picture, rng),)


def real_files(places: Sequence[Path]) -> list[Path]:
    """The files among these places and below folders among them, in order.

    Raises:
        DataError: One of them is not there.
    """
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise DataError(f"{place}: there is no such file or folder")
        found += sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
    return found


def _looks_at(path: Path, most: int = 24) -> Iterator[Look]:
    """Up to `most` pictures of a file, two a second of a video; none of a file that is no picture."""
    try:
        with open_source(path) as source:
            yield from ((frame.image,) for frame in islice(_spaced(source), most))
    except SourceError:
        return


def _spaced(frames: Iterable[Frame], step: float = 0.5) -> Iterator[Frame]:
    due = -math.inf
    for frame in frames:
        if frame.time >= due:
            due = frame.time + step
            yield frame


def _spoilt(picture: Image, rng: random.Random) -> Image:
    """As a camera's stream shows it: another size, JPEG of another quality, another exposure."""
    height, width = picture.shape[:2]
    scale = rng.choice((0.5, 0.75, 1.5, 2.0))
    resized = cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    exposed = np.clip(resized.astype(np.float32) * rng.uniform(0.85, 1.15), 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", exposed, [cv2.IMWRITE_JPEG_QUALITY, rng.randint(40, 90)])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)


def _tokens(engine: LocalEngine[VisionTower, Decoder], look: Look, height: int, width: int) -> torch.Tensor:
    tower, _ = engine.backend()
    return tower.encode(*engine.preprocessor.patches(look, height, width))


def _distances(
    engine: LocalEngine[VisionTower, Decoder], table: Familiarity, looks: Iterable[Look]
) -> list[float]:
    return [table.distance(_tokens(engine, look, table.height, table.width)) for look in looks]


def _score(engine: LocalEngine[VisionTower, Decoder], table: Familiarity, look: Look) -> float:
    return table.score(_tokens(engine, look, table.height, table.width))


def _share(name: str, marked: Sequence[bool], owners: Sequence[int] | Sequence[str]) -> dict[str, Any]:
    if not marked:
        return {name: None, f"{name}_ci": [None, None], f"{name}_n": 0}
    edges = [round(edge, 4) for edge in bootstrap(marked, groups=owners)]
    return {name: round(float(np.mean(marked)), 4), f"{name}_ci": edges, f"{name}_n": len(marked)}
