"""Box tracking: moves boxes from the frame that they were detected in to the newest one, by optical flow.

By the time that a frame is answered, the hands are elsewhere. The tracker keeps the last seconds as small
pictures. A grid of points is placed in a box; sparse pyramidal Lucas-Kanade flow (Bouguet, 2000) takes them
through the pictures since, forwards and, as a check, backwards (Kalal et al., 2010); a robust similarity
through the points that hold moves the box. A target that is no longer found is lost, rather than guessed: only the next
answer says where it is.

Points are followed for the boxes alone, from the answered frame on: a hand is small and moves against its
background, where flow that is read from a grid over the whole picture mixes the two.
What a box means, and which boxes belong together, is not known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from egolive.streaming.frames import Box, Frame, Image

__all__ = ["Track", "Tracker"]

Points = NDArray[np.float32]
"""(N, 2), x and y in pixels of the small picture."""

_SIDE = 320
"""Pixels of the longer side of the small pictures."""
_GRID = 8
"""Points along each side of a box."""
_WINDOW = (9, 9)
"""Pixels round a point that have to match. A larger window on a hand's edge follows the background."""
_LEVELS = 3
_STOP = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 10, 0.03)
_RETURN = 1.0
"""Pixels by which a point may miss its start on the way back."""
_STRAY = 6.0
"""Pixels off the common movement from which a point has slipped to something else."""
_COLOUR = 50.0
"""Distance in CIELAB (8 bit, sum of the channels) at which a point counts for a third."""
_DOUBT = 0.7
"""What a point's trust is multiplied by when it is not found again."""
_RECOVERY = 0.15
"""Share of the lost trust that a point gains back when it is."""
_LEAST = 0.2
"""Confidence below which a box is lost."""
_VISIBLE = 0.45
"""Share of a box inside the picture below which it is lost."""
_STRETCH = 1.4
"""Most that a box grows or shrinks; more is a wrong fit."""
_CATCH_UP = 0.06
"""Seconds between the pictures that a new box is taken through: half of those at 30 a second will do."""
_MOST_VIEWS = 256


@dataclass(frozen=True, slots=True)
class _View:
    """What is kept of a frame."""

    time: float
    grey: NDArray[np.uint8]
    """(h, w)."""
    lab: Image
    """CIELAB, (h, w, 3)."""


class Track:
    """One tracked box; the tracker that made it moves it on."""

    def __init__(self, box: Box, view: _View, scale: float) -> None:
        """Place points in a box.

        Args:
            box: In pixels of the source frame.
            view: The picture that it was found in.
            scale: Pixels of the small picture per pixel of the source frame.
        """
        self.found = box
        """The box as it was answered."""
        self.lost = False
        """The target is gone, and stays so."""
        self._scale = scale
        self._time = view.time
        low, high = np.array([*box], np.float32).reshape(2, 2) * np.float32(scale)
        self._centre, self._half = (low + high) / 2, np.maximum((high - low) / 2, 1)
        steps = np.linspace(-1, 1, _GRID + 2, dtype=np.float32)[1:-1]
        places = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        # The middle of a box is its target more often than its corners are.
        self._prior = np.exp(-(places**2).sum(axis=1))
        self._start: Points = self._centre + places * self._half
        self._colours = _sample(view.lab, self._start)
        self._trust = np.ones(len(places), np.float32)
        self._velocity = np.zeros(2, np.float32)
        self._confidence = 1.0
        self.points = self._start.copy()
        """Where the points are now."""
        self._corners = np.concatenate([low, high])
        self.lost = self._share_inside(view) < _VISIBLE

    @property
    def box(self) -> Box:
        """The box in pixels of the newest frame; where it was last seen if it is lost."""
        x1, y1, x2, y2 = (float(value) / self._scale for value in self._corners)
        return replace(self.found, x1=x1, y1=y1, x2=x2, y2=y2)

    @property
    def confidence(self) -> float:
        """Share of points that are found again, look as before and move together, in [0, 1]; 0 if lost."""
        return 0.0 if self.lost else self._confidence

    def lose(self) -> None:
        """Mark the target as lost."""
        self.lost = True

    def expected(self, time: float) -> Points:
        """Where the points are at a later time if they keep their speed."""
        expected: Points = self.points + self._velocity * np.float32(time - self._time)
        return expected

    def move(self, ends: Points, returned: NDArray[np.bool_], view: _View) -> None:
        """Take one step.

        Args:
            ends: Where flow takes the points.
            returned: Whether flow takes each of them back to where it came from.
            view: The picture they end in.
        """
        shifts = ends - self.points
        sure = self._prior * self._trust * returned
        if sure.any():
            common = _median(shifts, sure)
            self._velocity = common / np.float32(max(view.time - self._time, 1e-3))
            shifts[~returned] = common
        else:
            shifts[:] = 0
        self._time = view.time
        self.points = self.points + shifts
        rows, columns = view.grey.shape
        inside = ((self.points >= 0) & (self.points < (columns, rows))).all(axis=1)
        change = np.abs(_sample(view.lab, self.points) - self._colours).sum(axis=1)
        alike = np.exp(-((change / _COLOUR) ** 2))
        gain = _RECOVERY * (1 - self._trust) * (change < _COLOUR)
        self._trust = np.where(returned, self._trust + gain, _DOUBT * self._trust).astype(np.float32)
        weights = self._prior * self._trust * inside * alike
        turn, shift = _similarity(self._start, self.points, weights)
        self._place(turn, shift)
        # Stray points are set back to where they belong: the target may show there again.
        belongs = turn * _complex(self._start) + shift
        miss = np.abs(belongs - _complex(self.points))
        stray = miss > _STRAY
        agreed = float(weights[~stray].sum() / self._prior.sum())
        self.points[stray | ~returned] = np.stack([belongs.real, belongs.imag], axis=1)[stray | ~returned]
        self._trust[stray] *= _DOUBT
        self._confidence = agreed
        self.lost |= agreed < _LEAST or self._share_inside(view) < _VISIBLE

    def _place(self, turn: complex, shift: complex) -> None:
        at = turn * complex(*self._centre) + shift
        centre, half = np.array([at.real, at.imag], np.float32), self._half * np.float32(abs(turn))
        self._corners = np.concatenate([centre - half, centre + half])

    def _share_inside(self, view: _View) -> float:
        rows, columns = (float(side) for side in view.grey.shape)
        x1, y1, x2, y2 = (float(value) for value in self._corners)
        width, height = min(x2, columns) - max(x1, 0.0), min(y2, rows) - max(y1, 0.0)
        return max(0.0, width) * max(0.0, height) / max((x2 - x1) * (y2 - y1), 1e-6)


class Tracker:
    """The last seconds of a stream, and the boxes that are tracked through it. Not thread-safe."""

    def __init__(self, *, seconds: float = 8.0) -> None:
        """Start with nothing seen.

        Args:
            seconds: How far back a box may have been found. At 448 x 252 a frame costs 0.23 MB.
        """
        self._seconds = seconds
        self._views: deque[_View] = deque(maxlen=_MOST_VIEWS)
        self._tracks: list[Track] = []
        self._size = (0, 0)

    def __len__(self) -> int:
        """Number of frames kept."""
        return len(self._views)

    def push(self, frame: Frame) -> None:
        """Take the newest frame and move every tracked box to it.

        A gap before it, or another picture size, loses everything.
        """
        if frame.gap or (frame.width, frame.height) != self._size:
            self.forget()
            self._size = (frame.width, frame.height)
        view = self._view(frame)
        if self._views:
            _advance(self._tracks, self._views[-1], view)
        self._views.append(view)
        while view.time - self._views[0].time > self._seconds:
            self._views.popleft()
        self._tracks = [track for track in self._tracks if not track.lost]

    def follow(self, boxes: Iterable[Box], time: float) -> list[Track] | None:
        """Move boxes to the newest frame, and on to every frame that is pushed from now on.

        Args:
            boxes: In pixels of the frame that they were found in.
            time: Capture time of that frame in seconds; if it was not pushed, the last one before it serves.

        Returns:
            A track for each box, or None where no frame is kept that is that old.
        """
        older = [number for number, view in enumerate(self._views) if view.time <= time + 1e-6]
        if not older:
            return None
        views = list(self._views)[older[-1] :]
        tracks = [Track(box, views[0], self._scale) for box in boxes]
        before = views[0]
        for view in views[1:]:
            if view.time - before.time >= _CATCH_UP or view is views[-1]:
                _advance(tracks, before, view)
                before = view
        self._tracks += [track for track in tracks if not track.lost]
        return tracks

    def release(self, tracks: Iterable[Track]) -> None:
        """Stop tracking these."""
        done = {id(track) for track in tracks}
        self._tracks = [track for track in self._tracks if id(track) not in done]

    def forget(self) -> None:
        """Drop all frames and lose all tracks."""
        for track in self._tracks:
            track.lose()
        self._tracks = []
        self._views.clear()

    @property
    def _scale(self) -> float:
        return min(1.0, _SIDE / max(self._size))

    def _view(self, frame: Frame) -> _View:
        size = (max(1, round(frame.width * self._scale)), max(1, round(frame.height * self._scale)))
        small = frame.image
        # OpenCV halves a picture twice in half the time that it takes to quarter it.
        while small.shape[1] >= 2 * size[0] and small.shape[0] % 2 == small.shape[1] % 2 == 0:
            half = (small.shape[1] // 2, small.shape[0] // 2)
            small = np.asarray(cv2.resize(small, half, interpolation=cv2.INTER_AREA), np.uint8)
        if small.shape[1::-1] != size:
            small = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_AREA), np.uint8)
        grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)
        return _View(frame.time, grey, np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2LAB), np.uint8))


def _advance(tracks: Sequence[Track], before: _View, after: _View) -> None:
    """Take all tracks that are not lost from one picture to the next, their points together."""
    tracks = [track for track in tracks if not track.lost]
    if not tracks:
        return
    points = np.concatenate([track.points for track in tracks])
    expected = np.concatenate([track.expected(after.time) for track in tracks])
    ends, found = _flow(before, after, points, expected)
    back, found_back = _flow(after, before, ends, ends - (expected - points))
    returned = found & found_back & (np.abs(back - points).max(axis=1) < _RETURN)
    cuts = np.cumsum([len(track.points) for track in tracks])[:-1]
    for track, its, ok in zip(tracks, np.split(ends, cuts), np.split(returned, cuts), strict=True):
        track.move(its, ok, after)


def _flow(before: _View, after: _View, points: Points, expected: Points) -> tuple[Points, NDArray[np.bool_]]:
    """Where points go, searched from where they are expected; and whether each was found."""
    ends, found, _ = cv2.calcOpticalFlowPyrLK(
        before.grey,
        after.grey,
        points,
        expected.copy(),
        winSize=_WINDOW,
        maxLevel=_LEVELS,
        criteria=_STOP,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return np.asarray(ends, np.float32), np.asarray(found)[:, 0] > 0


def _similarity(start: Points, end: Points, weights: NDArray[np.floating]) -> tuple[complex, complex]:
    """Fit end = turn * start + shift, points as complex numbers.

    Reweighted least squares with Tukey's biweight, from the median movement on.
    """
    a, b = _complex(start), _complex(end)
    turn, shift = 1 + 0j, complex(*_median(end - start, weights))
    for _ in range(4):
        miss = np.abs(turn * a + shift - b)
        kept = weights * np.maximum(0, 1 - (miss / (1.5 * _STRAY)) ** 2) ** 2
        total = float(kept.sum())
        if total <= 0 or np.count_nonzero(kept) < 3:
            break
        from_, to = (kept * a).sum() / total, (kept * b).sum() / total
        spread = float((kept * np.abs(a - from_) ** 2).sum())
        turn = complex((kept * (b - to) * np.conj(a - from_)).sum() / max(spread, 1e-6))
        size = abs(turn)
        turn = turn / size * min(max(size, 1 / _STRETCH), _STRETCH) if size > 0 else 1 + 0j
        shift = complex(to - turn * from_)
    return turn, shift


def _complex(points: Points) -> NDArray[np.complex64]:
    return (points[:, 0] + 1j * points[:, 1]).astype(np.complex64)


def _median(values: Points, weights: NDArray[np.floating]) -> NDArray[np.float32]:
    """Weighted median of each column, (2,)."""
    found = []
    for column in values.T:
        order = np.argsort(column)
        sums = np.cumsum(weights[order])
        found.append(column[order[np.searchsorted(sums, sums[-1] / 2)]])
    return np.array(found, np.float32)


def _sample(picture: Image, points: Points) -> NDArray[np.float32]:
    """Colours at points, (N, 3); beyond the picture those of its edge."""
    columns, rows = np.ascontiguousarray(points[:, :1]), np.ascontiguousarray(points[:, 1:])
    colours = cv2.remap(picture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(colours, np.float32).reshape(-1, 3)
