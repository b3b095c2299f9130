"""A GStreamer pipeline as a source: how a Jetson's own cameras and decoders are reached.

Where the installed OpenCV is built with GStreamer it runs the pipeline; PyPI's is not, and there
`gst-launch-1.0` runs it and sends raw pictures through a pipe.
"""

from __future__ import annotations

import select
import shlex
import shutil
import subprocess
import tempfile

import numpy as np

from egolive.streaming.clock import Clock
from egolive.streaming.errors import SourceError, SourceLost
from egolive.streaming.frames import Image
from egolive.streaming.sources.live.webcam import Camera, OpenCvCamera

__all__ = ["GstPipe", "open_gstreamer"]

_DEFAULT_SIZE = (1280, 720)
_NEWEST_ONLY = "queue leaky=downstream max-size-buffers=2"


def open_gstreamer(
    pipeline: str, *, size: tuple[int, int] | None, timeout: float, clock: Clock
) -> OpenCvCamera | GstPipe:
    """Open a pipeline that ends in raw video, for example "nvarguscamerasrc ! nvvidconv".

    Args:
        pipeline: elements without a sink.
        size: width and height of the pictures; 1280x720 without it.
        timeout: seconds without a picture after which it counts as lost.
        clock: what frame times are read from.

    Raises:
        SourceError: it does not run, or nothing here can run it.
    """
    import cv2

    width, height = size or _DEFAULT_SIZE
    scaled = f"{pipeline} ! videoconvert ! videoscale"
    if any("GStreamer" in line and "YES" in line for line in cv2.getBuildInformation().splitlines()):
        caps = f"video/x-raw,format=BGR,width={width},height={height}"
        capture = cv2.VideoCapture(f"{scaled} ! {caps} ! appsink drop=true max-buffers=1", cv2.CAP_GSTREAMER)
        if not capture.isOpened():
            raise SourceError(f"gst:{pipeline}: does not run; try it with gst-launch-1.0")
        return OpenCvCamera(capture, name=f"gst:{pipeline}", timeout=timeout, clock=clock)
    if shutil.which("gst-launch-1.0") is None:
        raise SourceError(
            f"gst:{pipeline}: no GStreamer here; install gstreamer1.0-tools, or an OpenCV built with it"
        )
    caps = f"video/x-raw,format=RGB,width={width},height={height}"
    command = f"gst-launch-1.0 -q {scaled} ! {caps} ! {_NEWEST_ONLY} ! fdsink fd=1"
    return GstPipe(command, name=f"gst:{pipeline}", size=(width, height), timeout=timeout, clock=clock)


class GstPipe(Camera):
    """A program that writes raw RGB pictures to its output, as a live source.

    Args:
        command: the program, as in a shell; its rows are padded to four bytes, as GStreamer's are.
        name: what messages call it.
        size: width and height of the pictures.
        timeout: seconds without a picture after which it counts as lost.
        clock: what frame times are read from.

    Raises:
        SourceError: it does not start, or gives no picture.
    """

    def __init__(
        self, command: str, *, name: str, size: tuple[int, int], timeout: float, clock: Clock
    ) -> None:
        super().__init__(name, timeout=timeout, clock=clock)
        self.size = size
        self._width, self._height = size
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise SourceError(f"{name}: cannot be read as a command ({error}); check its quotes") from error
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the source)
        try:
            self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=self._messages, bufsize=0)
        except OSError as error:
            self._messages.close()
            raise SourceError(f"{name}: cannot be started ({error.strerror})") from error
        try:
            self._read()
        except SourceLost as error:
            self.close()
            raise SourceError(str(error)) from error

    def close(self) -> None:
        """End the program and wait until it is gone."""
        self._stop.set()
        with self._reading:
            self._process.terminate()
            try:
                self._process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._messages.close()

    def _read(self) -> Image | None:
        """The next picture, or None once closed."""
        pipe = self._process.stdout
        assert pipe is not None
        stride = (self._width * 3 + 3) // 4 * 4
        buffer = bytearray(stride * self._height)
        filled = 0
        deadline = self._clock.now() + self._timeout
        while filled < len(buffer):
            with self._reading:
                if self._stop.is_set():
                    return None
                ready, _, _ = select.select([pipe], [], [], 0.1)
                count = pipe.readinto(memoryview(buffer)[filled:]) if ready else None  # type: ignore[attr-defined]
                if count == 0:
                    raise SourceLost(f"{self.name}: the pipeline ended ({self._last_message()})")
            if count:
                filled += count
            elif self._clock.now() >= deadline:
                raise SourceLost(f"{self.name}: no picture for {self._timeout:g} s; check the camera")
        rows = np.frombuffer(buffer, dtype=np.uint8).reshape(self._height, stride)
        return np.ascontiguousarray(rows[:, : self._width * 3].reshape(self._height, self._width, 3))

    def _last_message(self) -> str:
        self._process.wait()
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "without a message")
