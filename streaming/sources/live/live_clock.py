"""When the pictures of a live source were taken, on the clock of this machine.

A sender stamps pictures by its own clock, which began anywhere and may run fast, slow, or start again. A
packet cannot arrive before its picture was taken, so the smallest difference between arrival and stamp, over
many packets, is the difference between the two clocks plus the shortest way there; what a packet is later
than that, it has waited in a buffer (the minimum filter of RFC 5905 § 10, and of jitter buffers).
"""

from __future__ import annotations

from collections import deque

__all__ = ["LiveClock"]

_WINDOW = 10.0
"""Seconds of packets over which the smallest difference counts; the sender's clock may drift meanwhile."""
_SLEW = 0.01
"""Seconds a second by which the difference may grow: pace errors of cameras are smaller."""
_RECENT = 2.0
"""Seconds of reading that tell whether the reader keeps up."""
_IDLE = 0.5
"""Share of that time spent in waiting for data from which on nothing can lie unread."""
_JUMP = 1.0
"""Seconds by which stamps and arrival may part in one step; more is a clock that was set anew."""
_BACK = 0.5
"""Seconds by which stamps may step back where pictures are sent in the order of decoding."""
_STEP = 1e-4
"""Seconds between two pictures at least."""


class LiveClock:
    """Turns time stamps and times of arrival into times of capture, which never go back.

    All times are seconds of the machine's clock. The shortest way from the sender cannot be seen from here:
    it is taken as zero.

    Args:
        stamped: whether the stream carries time stamps; without them pictures are taken when they arrive.

    Example:
        >>> clock = LiveClock()
        >>> for stamp, arrived in [(0.0, 100.5), (0.1, 100.5), (0.2, 100.5)]:  # a burst at the opening
        ...     clock.packet(stamp, arrived, 0.0)
        >>> captured, gap = clock.place(0.1, 100.5)
        >>> round(captured, 3), gap
        (100.4, False)
    """

    def __init__(self, stamped: bool = True) -> None:
        self.stamped = stamped
        self._offset: float | None = None
        self._last_packet: tuple[float, float] | None = None
        self._least: deque[tuple[float, float]] = deque()
        self._recent: deque[tuple[float, float, float]] = deque()
        self._waited = 0.0
        self._last = float("-inf")
        self._gap = False

    def packet(self, stamp: float | None, arrived: float, waited: float) -> None:
        """Take note of a packet that was read.

        Args:
            stamp: its time stamp, seconds of the sender's clock.
            arrived: when it had been read.
            waited: seconds for which the read waited for it.
        """
        if not self.stamped or stamp is None:
            return
        difference = arrived - stamp
        before, self._last_packet = self._last_packet, (stamp, arrived)
        if self._offset is None or before is None:
            self._rebase(difference, gap=False)
        else:
            step, passed = stamp - before[0], arrived - before[1]
            if step < -_BACK or step > passed + self._lag(before) + _JUMP:
                self._rebase(difference)
        self._note(difference, arrived, waited)
        assert self._offset is not None
        if difference <= self._offset:
            self._offset = difference
        elif self._keeps_up() and before is not None:
            if (least := min(d for _, _, d in self._recent)) > self._offset + _JUMP:
                # Nothing lies unread, and still all is late: the sender's clock stood still.
                self._rebase(least)
            else:
                limit = self._offset + _SLEW * max(0.0, arrived - before[1])
                self._offset = max(self._offset, min(limit, self._least[0][1]))

    def place(self, stamp: float | None, arrived: float) -> tuple[float, bool]:
        """When a decoded picture was taken, and whether the sender's clock was set anew before it.

        Args:
            stamp: the picture's time stamp.
            arrived: when the last packet that it needed had been read.
        """
        if self.stamped and stamp is not None and self._offset is not None:
            captured = stamp + self._offset
        else:
            captured = arrived
        self._last = captured = max(captured, self._last + _STEP)
        gap, self._gap = self._gap, False
        return captured, gap

    def _lag(self, packet: tuple[float, float]) -> float:
        """Seconds for which a packet lay in buffers; so much its followers may catch up."""
        stamp, arrived = packet
        return max(0.0, arrived - stamp - self._offset) if self._offset is not None else 0.0

    def _rebase(self, difference: float, *, gap: bool = True) -> None:
        self._offset = difference
        self._gap = self._gap or gap
        self._least.clear()
        self._recent.clear()
        self._waited = 0.0

    def _note(self, difference: float, arrived: float, waited: float) -> None:
        """Keep the packets of the last seconds, and the smallest differences among them."""
        while self._least and self._least[-1][1] >= difference:
            self._least.pop()
        self._least.append((arrived, difference))
        while self._least[0][0] < arrived - _WINDOW:
            self._least.popleft()
        self._recent.append((arrived, waited, difference))
        self._waited += waited
        while self._recent[0][0] < arrived - _RECENT:
            self._waited -= self._recent.popleft()[1]

    def _keeps_up(self) -> bool:
        """Whether the reader mostly waits for data, so that nothing can lie unread."""
        passed = self._recent[-1][0] - self._recent[0][0]
        # The wait before the first packet of the stretch is not in it.
        waited = self._waited - self._recent[0][1]
        return len(self._recent) > 2 and passed >= _RECENT / 2 and waited >= _IDLE * passed
