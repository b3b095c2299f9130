"""Cameras at this machine, read with OpenCV."""

from __future__ import annotations

import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from egolive.streaming.clock import Clock
from egolive.streaming.errors import SourceError, SourceLost
from egolive.streaming.frames import Frame, Image
from egolive.streaming.sources.source import Source

if TYPE_CHECKING:
    import cv2

__all__ = ["Camera", "OpenCvCamera", "open_webcam"]

# A camera that stalls would block its reader for ten seconds. OpenCV reads the variable when it is loaded,
# which is why it is set here and OpenCV is imported inside the functions.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")

_OLDEST = 2.0
"""Seconds: a picture that is said to be older carries no time that can be used."""
_STEP = 1e-4
"""Seconds between two pictures at least."""
_RETRY = 0.05
"""Seconds between two tries to read from a camera that gave nothing."""


class Camera(Source, ABC):
    """Base of live sources whose frames carry the time at which they arrived; subclasses say how to `_read`.

    Args:
        name: what messages call it.
        timeout: seconds without a picture after which it counts as lost.
        clock: what frame times are read from.
    """

    def __init__(self, name: str, *, timeout: float, clock: Clock) -> None:
        self.live = True
        self.name = name
        self.fps: float | None = None
        self.size: tuple[int, int] | None = None
        self.broken = 0
        self._timeout = timeout
        self._clock = clock
        self._stop = threading.Event()
        # A device must not be released while another thread is reading from it.
        self._reading = threading.Lock()

    def __iter__(self) -> Iterator[Frame]:
        """Frames until it is closed.

        Raises:
            SourceLost: no picture came for `timeout` seconds, or what sends them ended.
        """
        start: float | None = None
        last = float("-inf")
        index = 0
        while (image := self._read()) is not None:
            captured = self._clock.now() - self._age()
            if start is None:
                start = captured
            # Ages are measured; time must not go back by the error of one.
            last = captured = max(captured, last + _STEP)
            yield Frame(image, captured - start, index, captured=captured)
            index += 1

    def _age(self) -> float:
        """Seconds since the picture that was just read was taken, where the device tells; else 0."""
        return 0.0

    @abstractmethod
    def _read(self) -> Image | None:
        """The next picture, or None once closed."""


class OpenCvCamera(Camera):
    """An opened `cv2.VideoCapture`.

    Args:
        capture: the opened device; it is released by `close`.
        name: what messages call it.
        timeout: seconds without a picture after which it counts as lost.
        clock: what frame times are read from.

    Raises:
        SourceError: it opens but gives no picture.
    """

    def __init__(self, capture: cv2.VideoCapture, *, name: str, timeout: float, clock: Clock) -> None:
        import cv2

        super().__init__(name, timeout=timeout, clock=clock)
        self._capture = capture
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        self.fps = rate if 0 < rate <= 1000 else None
        try:
            first = self._read()
        except SourceLost as error:
            self.close()
            raise SourceError(
                f"{name}: opens but gives no picture in {timeout:g} s; close other programs that use it"
            ) from error
        if first is not None:
            self.size = (int(first.shape[1]), int(first.shape[0]))

    def close(self) -> None:
        """Release the camera; waits for a read that is under way, about a second at most."""
        self._stop.set()
        with self._reading:
            self._capture.release()

    def _age(self) -> float:
        """By the driver's time stamp, which Video4Linux takes from the monotonic clock."""
        import cv2

        age = time.monotonic() - float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1e3
        # Drivers that stamp by another clock, or not at all, are far off.
        return age if 0.0 < age < _OLDEST else 0.0

    def _read(self) -> Image | None:
        """The next picture, or None once closed."""
        import cv2

        deadline = self._clock.now() + self._timeout
        while True:
            with self._reading:
                if self._stop.is_set():
                    return None
                ok, bgr = self._capture.read()
            if ok:
                image: Image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
                return image
            if self._clock.now() >= deadline:
                raise SourceLost(f"{self.name}: no picture for {self._timeout:g} s; check its cable")
            self._clock.wait(self._stop, _RETRY)


def _is_there(device: Path) -> bool:
    try:
        return device.exists()
    except (OSError, ValueError):
        # No file can have such a name.
        return False


def open_webcam(
    camera: int | str, *, size: tuple[int, int] | None, fps: float | None, timeout: float, clock: Clock
) -> OpenCvCamera:
    """Open a camera by its number or its device file ("/dev/video0").

    Args:
        camera: number or device file.
        size: width and height to ask for; the camera may give another.
        fps: frames a second to ask for; the camera may give another.
        timeout: seconds without a picture after which it counts as lost.
        clock: what frame times are read from.

    Raises:
        SourceError: it is not there, cannot be opened, or gives no picture.
    """
    import cv2
    from cv2.utils import logging as cv2_logging

    name = f"camera {camera}" if isinstance(camera, int) else camera
    device = Path(f"/dev/video{camera}" if isinstance(camera, int) else camera)
    if sys.platform.startswith("linux") and not _is_there(device):
        present = ", ".join(str(path) for path in sorted(device.parent.glob("video*"))) or "none"
        raise SourceError(f"{name}: there is no {device}; cameras found: {present}")
    backends = {"linux": cv2.CAP_V4L2, "darwin": cv2.CAP_AVFOUNDATION, "win32": cv2.CAP_MSMF}
    # OpenCV writes its own lines to the error output; the one below says it all.
    level = cv2_logging.getLogLevel()
    cv2_logging.setLogLevel(cv2_logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(camera, backends.get(sys.platform, cv2.CAP_ANY))
    finally:
        cv2_logging.setLogLevel(level)
    if not capture.isOpened():
        capture.release()
        raise SourceError(f"{name}: cannot be opened; check that no other program uses it and that you may")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    if size is not None:
        if size[0] * size[1] > 640 * 480 and sys.platform.startswith("linux"):
            # Uncompressed, USB 2 carries a large picture only a few times a second.
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    if fps is not None:
        capture.set(cv2.CAP_PROP_FPS, fps)
    return OpenCvCamera(capture, name=name, timeout=timeout, clock=clock)
