"""`Report`: what a run counted, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["End", "Report"]

End = Literal["source", "seconds", "stop", "interrupt"]


@dataclass(slots=True)
class Report:
    """What happened in a run. Rates are a second of the clock, over the whole run."""

    captured: int = 0
    """Frames that the source gave."""
    shown: int = 0
    """Frames that were shown."""
    steps: int = 0
    """Times that thinking came to an end."""
    windows: int = 0
    """Windows that something was asked of."""
    results: int = 0
    """Results that were shown, in time."""
    gaps: int = 0
    """Gaps in the stream."""
    seconds: float = 0.0
    """Length of the run by the clock."""
    stream_seconds: float = 0.0
    """Time of the last frame of the source."""
    drops: dict[str, int] = field(default_factory=dict)
    """What was passed over, by reason: "show_busy" (frames), "think_busy" (windows that were due to be asked
    of), "late" (frames whose time was over when they had been decoded, or that were skipped to keep up),
    "broken" (pieces of the stream that could not be decoded)."""
    requests: dict[str, int] = field(default_factory=dict)
    """Requests by what became of them, as `Scheduler.counts` and `LatestResults.counts` name them."""
    ended: End = "source"
    """Why it ended: the source was over, the time was up, it was asked to stop, or Ctrl-C."""

    @property
    def source_rate(self) -> float:
        """Frames a second that the source gave."""
        return self._rate(self.captured)

    @property
    def shown_rate(self) -> float:
        """Frames a second that were shown."""
        return self._rate(self.shown)

    @property
    def think_rate(self) -> float:
        """Thinking steps a second."""
        return self._rate(self.steps)

    def _rate(self, count: int) -> float:
        return count / self.seconds if self.seconds > 0 else 0.0
