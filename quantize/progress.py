"""Progress of long work: how far a step is and how long it will take, drawn by whoever wants to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

__all__ = ["Progress", "bars", "silent"]

Step = Callable[[], None]
"""Called when a part of a task is done."""


class Progress(Protocol):
    """Told of tasks and of their parts."""

    def task(self, name: str, parts: int) -> AbstractContextManager[Step]:
        """A task of so many parts, while it is at work."""
        ...


class _Silent:
    @contextmanager
    def task(self, name: str, parts: int) -> Iterator[Step]:
        """See `Progress`."""
        yield lambda: None


class _Lines:
    """One line a task, where there is no terminal."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    @contextmanager
    def task(self, name: str, parts: int) -> Iterator[Step]:
        """See `Progress`."""
        self._tell(name)
        yield lambda: None


class _Bars:
    """A bar a task, with the time that is left, on a terminal."""

    def __init__(self, shown: Bars) -> None:
        self._shown = shown

    @contextmanager
    def task(self, name: str, parts: int) -> Iterator[Step]:
        """See `Progress`."""
        number = self._shown.add_task(name, total=parts)
        yield lambda: self._shown.advance(number)
        self._shown.update(number, completed=parts)


silent: Progress = _Silent()
"""Tells nobody."""


@contextmanager
def bars(tell: Callable[[str], None]) -> Iterator[Progress]:
    """Bars on a terminal, a line a task elsewhere.

    Args:
        tell: Prints a line for the user.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(tell)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as shown:
        yield _Bars(shown)
