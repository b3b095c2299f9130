"""Output of the benchmarks: a table on standard error, one JSON line on standard output, plots as PNG."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from egolive.assistant.system import machine
from egolive.streaming.errors import UsageError
from egolive.streaming.metrics import known

__all__ = ["check_places", "print_figures", "save_figure", "table"]

_WIDTH = 130


def check_places(*places: Path | None) -> None:
    """Refuse files that could not be written at the end of a long measurement.

    Raises:
        UsageError: The folder of one of them is not there.
    """
    for place in places:
        if place is not None and not place.parent.is_dir():
            raise UsageError(f"cannot write {place}: there is no folder {place.parent}")


def print_figures(figures: Mapping[str, Any], drawn: RenderableType, json_file: Path | None) -> None:
    """Print the table and the JSON line, and write the line where it is wanted.

    Args:
        figures: What was measured; the machine, versions, commit and command are added.
        drawn: The table.
        json_file: Also holds the line.
    """
    # What goes into a file need not be as narrow as a terminal that nobody has.
    Console(stderr=True, width=None if sys.stderr.isatty() else _WIDTH).print(drawn)
    line = json.dumps(known({**figures, **machine.gather()})) + "\n"
    if json_file is not None:
        json_file.write_text(line, encoding="utf-8")
    sys.stdout.write(line)


def table(title: str, *columns: str) -> Table:
    """An empty table: names on the left in the first column, figures on the right in the others."""
    drawn = Table(title=title, title_justify="left")
    for place, name in enumerate(columns):
        drawn.add_column(name, justify="right" if place else "left", no_wrap=True)
    return drawn


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as PNG, in the size of a page."""
    import matplotlib

    with matplotlib.rc_context({"font.size": 9}):
        figure.savefig(path, dpi=100)
