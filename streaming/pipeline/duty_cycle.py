"""Share of the time in which to work, by how hot, how busy and how well supplied the machine is."""

from __future__ import annotations

from egolive.streaming.pipeline.choice import LoadReading

__all__ = ["DutyCycle"]

_HOT, _COOL = 3.0, 8.0
"""Degrees below the limit from which on the machine is hot, and cool again."""
_COOLING = 30.0
"""Seconds for which a machine that has slowed itself down counts as hot."""
_BUSY, _IDLE = 0.5, 0.3
"""Share of the processor that others take from which on the machine is busy, and no longer."""
_DUTY_HOT, _DUTY_BATTERY, _DUTY_LOW, _DUTY_BUSY = 0.5, 0.6, 0.3, 0.95
_LOW = 0.2
"""Charge below which a battery is low."""


class DutyCycle:
    """Judges readings of the load, with hysteresis; what cannot be read changes nothing."""

    def __init__(self) -> None:
        self._reading = LoadReading()
        self._now = self._throttled_at = float("-inf")
        self._hot = self._busy = False

    def push(self, reading: LoadReading, now: float) -> None:
        """Take the newest reading, at a stream time."""
        self._reading, self._now = reading, now
        if reading.throttled:
            self._throttled_at = now
        if reading.headroom is not None:
            self._hot = reading.headroom < (_COOL if self._hot else _HOT)
        if reading.others_cpu is not None:
            self._busy = reading.others_cpu > (_IDLE if self._busy else _BUSY)

    def share(self) -> tuple[float, list[str]]:
        """Share of the time in which to work, and why it is less than all of it."""
        reading, duty, reasons = self._reading, 1.0, list[str]()
        if self._now - self._throttled_at < _COOLING:
            duty = _DUTY_HOT
            reasons.append("the machine slows itself down")
        elif self._hot:
            duty = _DUTY_HOT
            reasons.append(f"the machine is hot ({reading.temperature or 0.0:.0f} °C)")
        if reading.on_battery:
            low = reading.battery is not None and reading.battery < _LOW
            duty = min(duty, _DUTY_LOW if low else _DUTY_BATTERY)
            charge = "" if reading.battery is None else f" ({reading.battery:.0%})"
            reasons.append(f"on battery{charge}")
        if self._busy:
            duty = min(duty, _DUTY_BUSY)
            reasons.append("other programs keep the processor busy")
        return duty, reasons
