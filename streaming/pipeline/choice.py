"""What a governor chooses for a live run, and what it is told about the load of the machine. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

__all__ = ["Choice", "LoadReading"]


@dataclass(frozen=True, slots=True)
class LoadReading:
    """The load of the machine at one moment; None where it cannot be read."""

    temperature: float | None = None
    """Of the hottest sensor that has a limit, degrees Celsius."""
    headroom: float | None = None
    """Degrees from there to the limit above which the machine slows itself down; may be negative."""
    throttled: bool | None = None
    """Whether the machine has slowed itself down since the reading before, because of heat or power."""
    on_battery: bool | None = None
    """Whether it runs on its battery."""
    battery: float | None = None
    """Charge of the battery, from 0 to 1."""
    others_cpu: float | None = None
    """Share of the processor that other programs took since the reading before, from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How a live run is worked on from one moment on.

    Recurring tasks only: what the wearer asks is never held back.
    """

    every: int
    """New slices from one request of a task that is asked of the window to the next."""
    slices: int
    """Slices of a full window."""
    size: float = 1.0
    """Share of the usual number of pixels at which pictures are seen."""
    pictures: int
    """Tasks about a picture that are worked on at once; with fewer than there are, they take turns."""
    windows: int
    """The same of tasks about the window."""
    apart: bool = False
    """Whether tasks about the picture and tasks about the window are never worked on together."""
    duty: float = 1.0
    """Share of the time in which recurring tasks are worked on."""
    still_since: float | None = None
    """Stream time since which nothing has moved; None while something moves. What was answered about a later
    picture is neither asked again before `heartbeat` has passed, nor out of date."""
    heartbeat: float = 20.0
    """Seconds after which a task is asked again although nothing has moved."""
    contact_since: float | None = None
    """Stream time of the last contact of a hand, where tasks wait for the next one; None where they do not.
    What was answered about a later picture is asked again only shortly before it is out of date."""
    reason: str = field(default="", compare=False)
    """Why, in a few words."""

    def as_json(self) -> dict[str, object]:
        """The choice without its reason, for events and recordings."""
        values = asdict(self)
        del values["reason"]
        return values

    def event(self, time: float) -> Mapping[str, object]:
        """The event that tells of it.

        Args:
            time: Stream time from which on it holds.
        """
        return {"type": "governor", "t": round(time, 4), "choice": self.as_json(), "reason": self.reason}
