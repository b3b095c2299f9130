"""`egolive calibrate`: what a model's scores are worth, kept in its profile.

    egolive calibrate nano --plot calibration.png
    egolive calibrate my-model --data held-out.jsonl --test test.jsonl

Held-out answers whose truth is known are asked for as `egolive evaluate` asks; the share of right ones by
score becomes the calibration, and others are asked for to measure it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from egolive.assistant.cli.options import (
    GIVEN,
    OUTPUT,
    DeviceOption,
    DtypeOption,
    JsonFile,
    PlotFile,
    ThreadsOption,
)
from egolive.assistant.cli.printing import check_folders, json_line, note, wrote
from egolive.assistant.load import check_model, is_address
from egolive.assistant.model.checkpoint import model_folder
from egolive.assistant.model.engine_folder import files_folder, is_engine_folder, read_engine_card
from egolive.assistant.schema.profiles import PROFILE_FILE, Calibration, save_profile
from egolive.streaming.errors import ConfigError, DataError, SinkError, UsageError
from egolive.streaming.paths import existing_path
from egolive.train.evaluate.result_files import results_of_run

if TYPE_CHECKING:
    from rich.progress import Progress

    from egolive.assistant.schema.engine import Engine
    from egolive.assistant.schema.profiles import Profile
    from egolive.train.evaluate.calibration_fit import Point
    from egolive.train.evaluate.result_files import Record

__all__ = ["calibrate"]

_SIMULATED = ("sim:train", "sim:test")
_IN, _OUT = Parameter(group=GIVEN), Parameter(group=OUTPUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """Answers whose truth is known."""

    name: str
    """sim:train, sim:test or a file of rows."""
    seed: int
    episodes: int
    slices: int
    media: Path | None


def calibrate(
    model: Annotated[str, _IN] = "nano",
    *,
    data: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="", group=GIVEN)] = (
        "sim:test",
    ),
    episodes: Annotated[int, _IN] = 300,
    seed: Annotated[int, _IN] = 1,
    test: Annotated[str, _IN] = "sim:test",
    test_episodes: Annotated[int, _IN] = 200,
    test_seed: Annotated[int, _IN] = 0,
    slices: Annotated[int, _IN] = 8,
    media: Annotated[Path | None, _IN] = None,
    threshold: Annotated[float, _OUT] = 0.5,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    out: Annotated[Path | None, _OUT] = None,
    write: Annotated[bool, _OUT] = True,
    json_file: JsonFile = None,
    plot_file: PlotFile = None,
) -> None:
    """Measure what a model's scores mean, and keep it in its profile; prints a table, then one JSON line.

    Args:
        model: nano, or the folder of a checkpoint or engine; a hub id needs --out.
        data: what the calibration is fitted on: "sim:train" or "sim:test", episodes of the simulator; files
            of rows; or answers that `egolive evaluate --samples` kept. Nothing that the model was trained on,
            and nothing that it is tested on: the default are episodes with the looks of the test split, and
            another seed than tests have.
        episodes: how many, of the simulator.
        seed: of those episodes; with 0 they are those that models are trained and tested on.
        test: what the calibration is measured on, in the same forms.
        test_episodes: how many, of the simulator.
        test_seed: of those episodes.
        slices: slices in a window of the simulator.
        media: folder that the paths in files of rows start from; each file's own without it.
        threshold: an answer that is right with a smaller probability is shown as "not sure".
        device: auto, cpu, cuda or cuda:N.
        dtype: auto, fp32 or bf16; an engine folder has its own.
        threads: CPU threads of the model.
        out: folder into which the profile, egolive.json, is written; that of the model without it.
        write: keep the profile; with --no-write only the measuring is done.
        json_file: also write the JSON object here.
        plot_file: also draw probabilities against truth, and accuracy against coverage, into this PNG.
    """
    _check(data, test, (episodes, test_episodes, slices), (seed, test_seed), threshold, media)
    check_folders(json_file, plot_file)
    check_model(model, dtype=dtype)
    folder = _profile_folder(model, out) if write else None
    fitted = [_Data(name=one, seed=seed, episodes=episodes, slices=slices, media=media) for one in data]
    tested = _Data(name=test, seed=test_seed, episodes=test_episodes, slices=slices, media=media)
    from rich.console import Console
    from rich.progress import Progress

    from egolive.assistant.cli.options import open_model
    from egolive.assistant.system import machine
    from egolive.train.evaluate.calibration_fit import fit_calibration, measured, points_of

    with (
        closing(open_model(model, device=device, dtype=dtype, threads=threads)) as engine,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        points: list[Point] = []
        told = []
        for one in fitted:
            records = _records(engine, one, model, progress)
            found = points_of(records)
            told.append(_in_words(one, len(found), {record.get("episode") for record in records}))
            points += found
        calibration = fit_calibration(points, threshold=threshold, fitted_on="; ".join(told))
        if not calibration.curves:
            raise DataError(
                f"{', '.join(data)}: {len(points)} answers with a score are too few to fit anything; give "
                "more, or a model that tells the probabilities of its tokens"
            )
        others = points_of(_records(engine, tested, model, progress))
        profile = engine.profile
    figures = measured(others, calibration)
    Console(stderr=True).print(_table(figures))
    if plot_file is not None:
        _plot(others, calibration, plot_file)
    path = None
    if folder is not None:
        try:
            save_profile(replace(profile, calibration=calibration), folder)
        except OSError as error:
            raise SinkError(f"{folder}: cannot be written ({error.strerror or error}); give --out") from error
        path = folder / PROFILE_FILE
    about = {"model": model, "data": list(data), "seed": seed, "test": test, "test_seed": test_seed}
    fit = {"threshold": threshold, "fitted_n": len(points), "fitted_on": calibration.fitted_on}
    json_line({**about, **fit, **figures, **machine.gather()}, json_file)
    wrote(path, plot_file)


def _check(
    data: Sequence[str],
    test: str,
    counts: Sequence[int],
    seeds: tuple[int, int],
    threshold: float,
    media: Path | None,
) -> None:
    for name in (*data, test):
        path = existing_path(name.rpartition("%")[0] or name)
        if name not in _SIMULATED and (name.startswith("sim:") or path is None or not path.is_file()):
            raise ConfigError(f"data {name!r} is not known: use sim:train, sim:test or a file of rows")
    if min(counts) < 1 or min(seeds) < 0:
        raise UsageError("--episodes, --test-episodes and --slices are 1 or more, --seed 0 or more")
    if not 0 <= threshold <= 1:
        raise UsageError(f"--threshold is a probability from 0 to 1, got {threshold:g}")
    if media is not None and not media.is_dir():
        raise ConfigError(f"--media {media} is no folder; check the path")
    if test in data and (test not in _SIMULATED or seeds[0] == seeds[1]):
        raise UsageError(
            f"{test} would be fitted on and measured on; give other answers with --test, or another --seed"
        )


def _profile_folder(model: str, out: Path | None) -> Path:
    """Where the profile goes.

    Raises:
        UsageError: The model has no folder here that it could go into.
    """
    if out is not None:
        if not out.is_dir():
            raise UsageError(f"--out {out} is no folder; make it first")
        return out
    if is_address(model):
        raise UsageError("a server's profile is built in; give --out FOLDER, or --no-write to measure alone")
    folder = model_folder(model)
    if folder is None:
        raise UsageError(f"{model} has no folder of its own here; give --out FOLDER for its {PROFILE_FILE}")
    return files_folder(folder, read_engine_card(folder)) if is_engine_folder(folder) else folder


def _records(engine: Engine, data: _Data, model: str, progress: Progress) -> list[Record]:
    """Results with the model's own scores."""
    # Without a domain either: outside of it scores are dropped.
    raw = replace(engine.profile, calibration=None, domain="")
    if data.name not in _SIMULATED:
        kept = results_of_run(Path(data.name))
        if kept is not None:
            return _raw(*kept, data.name, raw)
        from egolive.train.data.row_media import FrameSampling
        from egolive.train.evaluate.evaluate_rows import FileOptions, records_of_file

        options = FileOptions(
            data=data.name,
            media=data.media or Path(data.name).parent,
            limit=None,
            think=False,
            grammar=True,
            frames=FrameSampling(),
            seed=data.seed,
        )
        return records_of_file(engine, options, model, None, progress, profile=raw)[0]
    from egolive.assistant.live.assistant import Assistant
    from egolive.train.evaluate.evaluate import ask_episode

    split = data.name.removeprefix("sim:")
    found: list[Record] = []
    task = progress.add_task(f"{data.name}, seed {data.seed}", total=data.episodes)
    with Assistant(engine, raw) as assistant:
        for index in range(data.episodes):
            found += ask_episode(assistant, index, split, data.seed, data.slices)
            progress.advance(task)
    return found


def _raw(head: dict[str, Any], records: list[Record], name: str, profile: Profile) -> list[Record]:
    """Results that `egolive evaluate` kept, if their scores are the model's own.

    Raises:
        DataError: They are calibrated already, or of a model that is asked otherwise.
    """
    told = head.get("profile")
    if not isinstance(told, dict) or told.get("prompts") != asdict(profile.prompts):
        raise DataError(f"{name}: its answers are of a model that is asked in other words")
    if told.get("calibration") is not None:
        raise DataError(f"{name}: its scores are calibrated already; evaluate with a profile that has none")
    return records


def _in_words(data: _Data, count: int, episodes: set[object]) -> str:
    """What a calibration was fitted on; of a file its name alone, since a profile travels."""
    if data.name in _SIMULATED:
        return f"{count} answers about {data.episodes} episodes of {data.name}, seed {data.seed}"
    kept = results_of_run(Path(data.name))
    if kept is not None and str(kept[0].get("data")) in _SIMULATED:
        return f"{count} answers about {len(episodes)} episodes of {kept[0]['data']}, seed {kept[0]['seed']}"
    return f"{count} answers about {Path(data.name).name}"


def _table(figures: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title="Probabilities against truth, on other answers than they were fitted to")
    columns = ("answers", "n", "right", "error", "of own scores", "not sure", "right, sure")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left")
    for kind, values in figures["kinds"].items():
        cells = (values[name] for name in ("right", "ece", "ece_raw", "unsure", "right_sure"))
        table.add_row(kind, str(values["n"]), *("" if cell is None else f"{cell:.3f}" for cell in cells))
    return table


def _plot(points: Sequence[Point], calibration: Calibration, path: Path) -> None:
    """Two panels: the share of right answers by probability, and by the share of answers that are kept."""
    import matplotlib
    from matplotlib.figure import Figure

    from egolive.train.evaluate.calibration_fit import GROUPS, calibration_error, coverage_curve

    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        told, kept = figure.subplots(1, 2)
        told.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":")
        for group, kinds in GROUPS.items():
            mine = [
                (curve.at(point.score), point.right)
                for point in points
                if point.kind in kinds and (curve := calibration.curve(point.kind)) is not None
            ]
            if not mine:
                continue
            chances, right = [chance for chance, _ in mine], [hit for _, hit in mine]
            name = f"{group} ({len(mine)}, error {calibration_error(chances, right):.3f})"
            bins: dict[int, list[tuple[float, bool]]] = {}
            for chance, hit in mine:
                bins.setdefault(min(int(chance * 10), 9), []).append((chance, hit))
            places = [entries for _, entries in sorted(bins.items()) if len(entries) >= 10]
            told.plot(
                [sum(c for c, _ in entries) / len(entries) for entries in places],
                [sum(h for _, h in entries) / len(entries) for entries in places],
                marker="o",
                markersize=4,
                label=name,
            )
            kept.plot(*coverage_curve(chances, right), label=group)
        told.set(title="probability told, and share that is right", xlabel="told", ylabel="right")
        kept.set(title="coverage against accuracy", xlabel="share of answers kept", ylabel="right")
        for axes in (told, kept):
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
        try:
            figure.savefig(path, dpi=110)
        except OSError as error:
            raise SinkError(f"cannot write {path}: {error.strerror or error}") from error
    note(f"drew {path}")
