"""What fits of a named model, in words and as a table: for `egolive doctor` and the choice of a form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from egolive.assistant.diagnostics.fit import ASSUMED, Fit, best_fit, fits
from egolive.assistant.diagnostics.structures import SMALLER, STRUCTURES
from egolive.assistant.model.checkpoint import BUNDLED, model_folder
from egolive.assistant.model.engine_folder import is_engine_folder
from egolive.assistant.model.model_cache import config_of
from egolive.assistant.model.model_sizes import ModelSizes, model_sizes
from egolive.assistant.schema.profiles import EGOTHINKER_V1, Profile, load_profile
from egolive.assistant.system.speed import Speeds
from egolive.streaming.errors import EngineError
from egolive.streaming.json_files import read_json_object

__all__ = ["fit_values", "fits_of", "forms_table", "in_words", "sizes_of", "slow_words"]

_MOST_CONFIG = 16 * 1024**2
"""Bytes of a configuration."""


def sizes_of(model: str) -> tuple[ModelSizes, Profile]:
    """Sizes of a checkpoint and its profile, without its weights.

    Args:
        model: A checkpoint folder or a hub id; those of the published models are known without the hub.

    Raises:
        EngineError: There is no such model, or it is an engine folder, which has one form.
        ConfigError: A mistake in its profile.
    """
    folder = model_folder(model)
    if folder is None and model in STRUCTURES:
        return STRUCTURES[model], EGOTHINKER_V1
    if folder is not None and is_engine_folder(folder):
        raise EngineError(f"{model} is an engine folder, which has one form; give the checkpoint")
    config, _ = config_of(model)
    values = read_json_object(config, remedy="download it again", most=_MOST_CONFIG, error=EngineError)
    sizes = model_sizes(values, where=str(config))
    # The sizes of pictures are the same in the built-in profiles of large models.
    return sizes, EGOTHINKER_V1 if folder is None else load_profile(folder)


def fits_of(model: str, *, device: str, free: int, speeds: Speeds | None) -> list[Fit]:
    """All forms of a model on one device; see `sizes_of` and `egolive.assistant.diagnostics.fit.fits`."""
    sizes, profile = sizes_of(model)
    return fits(sizes, profile, device=device, free=free, speeds=speeds)


def in_words(fit: Fit) -> str:
    """One form in one line: memory, whether it fits, seconds a window."""
    fitting = f"lacks {fit.lacks / 1e9:.1f} GB" if fit.lacks else "fits"
    return f"{fit.form.name:<9} {fit.memory.total / 1e9:5.1f} GB  {fitting:<14} {_pace(fit)}"


def slow_words(model: str, found: Sequence[Fit], smaller: Sequence[Fit]) -> list[str]:
    """Lines that say that a model is too slow to be live, in seconds, and what to use instead; none if it is.

    Args:
        model: Its name.
        found: Its forms on a device.
        smaller: The forms of `SMALLER` there; none where the model is not larger.
    """
    best = best_fit(found)
    if best is None or best.costs is None or best.pace == "live":
        return []
    slow = "too slow to be live" if best.pace == "too slow" else "fast enough for words, too slow for boxes"
    lines = [f"{model} is {slow} here: about {best.costs.window:.0f} s a window in {best.form.name}"]
    other = best_fit(smaller)
    if other is None:
        return [*lines, f"smaller: --model {BUNDLED}, which is for trying"]
    about = (
        "" if other.costs is None else f" (about {other.costs.window:.0f} s a window in {other.form.name})"
    )
    return [*lines, f"smaller: --model {SMALLER}{about}, not trained on first-person video; or {BUNDLED}"]


def forms_table(model: str, found: Sequence[Fit]) -> Table:
    """The forms of a model on one device, as a table."""
    device, free = found[0].device, found[0].free
    table = Table(
        title=f"{model} on {device}, {free / 1e9:.1f} GB free",
        title_justify="left",
        caption=f"estimates; {ASSUMED}",
        caption_justify="left",
    )
    # Where nothing was measured, one column says so.
    spans = ("encode", "token read", "token said") if any(fit.costs is not None for fit in found) else ()
    for column in ("form", "own memory", "mapped", "fits", *spans, "window"):
        table.add_column(column, justify="left" if column in ("form", "fits") else "right")
    for fit in found:
        own, mapped = fit.memory.anonymous, fit.memory.mapped
        fitting = f"[dim]lacks {fit.lacks / 1e9:.1f} GB[/]" if fit.lacks else "[green]yes[/]"
        cells = [fit.form.name, f"{own / 1e9:.1f} GB", f"{mapped / 1e9:.1f} GB", fitting]
        if fit.costs is None:
            cells += ["not measured"] * len(spans) + [_pace(fit)]
        else:
            spent = (fit.costs.encode, fit.costs.prefill, fit.costs.step)
            cells += [_duration(seconds) for seconds in spent] + [_pace(fit)]
        table.add_row(*cells)
    return table


def fit_values(model: str, fit: Fit) -> dict[str, object]:
    """One form as plain JSON values; unknown seconds are null."""
    costs = None if fit.costs is None else asdict(fit.costs) | {"window": fit.costs.window}
    return {
        "model": model,
        "form": fit.form.name,
        "device": fit.device,
        "anonymous_bytes": fit.memory.anonymous,
        "mapped_bytes": fit.memory.mapped,
        "free_bytes": fit.free,
        "lacks_bytes": fit.lacks,
        "seconds": costs,
        "pace": fit.pace,
    }


def _pace(fit: Fit) -> str:
    if fit.costs is None:
        return "speed not measured"
    return f"about {fit.costs.window:.1f} s a window, {fit.pace}"


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"
