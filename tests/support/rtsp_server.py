"""A real RTSP server, GStreamer's, in a process of its own; its pictures carry number and time of capture.

    with RtspServer(fps=15, protocols="udp") as server:
        open_source(server.url)

It runs on Debian's Python, which has the bindings (packages python3-gi, gir1.2-gst-rtsp-server-1.0,
gstreamer1.0-plugins-good and -ugly); `needs_rtsp_server` skips a test where they are missing. One pipeline
serves all clients, as a camera does, and runs only while there are some.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any
from urllib.parse import quote

from numbered_pictures import SIZE, paint

__all__ = ["RtspServer", "needs_rtsp_server"]

_PYTHON = "/usr/bin/python3"
_START_SECONDS = 20.0
_ENCODERS = {
    "h264": "x264enc tune=zerolatency threads=1 sliced-threads=false speed-preset=ultrafast "
    "key-int-max={fps} bitrate=1000 "
    "! rtph264pay name=pay0 pt=96 config-interval=-1",
    "jpeg": "jpegenc ! rtpjpegpay name=pay0 pt=26",
}


@functools.cache
def _missing() -> str:
    """Why there is no server here; "" where there is one."""
    try:
        tried = subprocess.run(
            [_PYTHON, __file__, "--check"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if tried.returncode == 0 else (tried.stderr.strip().splitlines() or ["unknown reason"])[-1]


def needs_rtsp_server(test: Any) -> Any:
    """Skips a test where GStreamer's RTSP server or its encoder is not installed."""
    import pytest  # Debian's Python, which runs this file too, has none

    return pytest.mark.skipif(bool(_missing()), reason=f"no GStreamer RTSP server: {_missing()}")(test)


class RtspServer:
    """The server, as a context.

    Args:
        fps: Pictures a second.
        protocols: "all", "tcp" (interleaved alone) or "udp" (answers 461 to interleaved).
        codec: "h264" or "jpeg".
        size: Width and height, pixels.
        login: User and password that it asks for.
    """

    def __init__(
        self,
        *,
        fps: int = 15,
        protocols: str = "all",
        codec: str = "h264",
        size: tuple[int, int] = SIZE,
        login: tuple[str, str] | None = None,
    ) -> None:
        self._arguments = [f"--fps={fps}", f"--protocols={protocols}", f"--codec={codec}"]
        self._arguments += [f"--size={size[0]}x{size[1]}"]
        self._login = login
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> RtspServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where the stream is, with user and password where it asks for them."""
        user = "{}:{}@".format(*(quote(part, safe="") for part in self._login)) if self._login else ""
        return f"rtsp://{user}127.0.0.1:{self.port}/camera"

    def start(self) -> None:
        """Start it; after `stop`, on the same port as before."""
        arguments = [*self._arguments, f"--port={self.port}"]
        if self._login:
            arguments += [f"--user={self._login[0]}", f"--password={self._login[1]}"]
        self._process = subprocess.Popen(
            [_PYTHON, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        # A server that does not start must not hang the tests.
        killer = threading.Timer(_START_SECONDS, self._process.kill)
        killer.start()
        try:
            assert self._process.stdout is not None
            words = self._process.stdout.readline().split()
        finally:
            killer.cancel()
        if words[:1] != ["ready"]:
            self.stop()
            raise RuntimeError(f"the RTSP server did not start: {words}")
        self.port = int(words[1])

    def stop(self) -> None:
        """End the process at once, as when a camera loses its power."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def stall(self, seconds: float) -> None:
        """Take no pictures for so long; connections stay open and answer."""
        self._tell(f"stall {seconds}")

    def resize(self, width: int, height: int) -> None:
        """Take pictures of another size from now on."""
        self._tell(f"size {width} {height}")

    def freeze(self) -> None:
        """Answer nothing any more, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _tell(self, command: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()


class _Camera:
    """Takes pictures at a steady pace while somebody watches; runs in the server's process."""

    def __init__(self, gst: Any, fps: int, size: tuple[int, int]) -> None:
        self._gst = gst
        self._fps = fps
        self.size = size
        self.stalled_until = 0.0
        self._number = 0
        self._running = threading.Event()

    def caps(self, size: tuple[int, int]) -> str:
        return f"video/x-raw,format=RGB,width={size[0]},height={size[1]},framerate={self._fps}/1"

    def configure(self, _factory: Any, media: Any) -> None:
        """Feed a new pipeline, and stop feeding the one before."""
        self._running.clear()
        self._running = running = threading.Event()
        running.set()
        media.connect("unprepared", lambda _media: running.clear())
        source = media.get_element().get_by_name_recurse_up("source")
        threading.Thread(target=self._take_pictures, args=(source, running), daemon=True).start()

    def _take_pictures(self, source: Any, running: threading.Event) -> None:
        shown = None
        due = time.monotonic()
        while running.is_set():
            due += 1 / self._fps
            time.sleep(max(0.0, due - time.monotonic()))
            if time.monotonic() < self.stalled_until:
                continue
            if self.size != shown:
                shown = self.size
                source.set_property("caps", self._gst.Caps.from_string(self.caps(shown)))
            picture = paint(self._number, time.monotonic(), shown)
            self._number += 1
            source.emit("push-buffer", self._gst.Buffer.new_wrapped(picture))


def _serve() -> None:
    import gi  # only Debian's Python has it

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtsp", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

    options = argparse.ArgumentParser()
    options.add_argument("--check", action="store_true")
    options.add_argument("--fps", type=int, default=15)
    options.add_argument("--protocols", choices=["all", "tcp", "udp"], default="all")
    options.add_argument("--codec", choices=sorted(_ENCODERS), default="h264")
    options.add_argument("--size", default="320x192")
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--user", default="")
    options.add_argument("--password", default="")
    given = options.parse_args()
    Gst.init(None)
    for element in ("appsrc", "videoconvert", "x264enc", "rtph264pay", "jpegenc", "rtpjpegpay"):
        if Gst.ElementFactory.find(element) is None:
            sys.exit(f"GStreamer has no element {element}")
    if given.check:
        return

    width, height = map(int, given.size.split("x"))
    camera = _Camera(Gst, given.fps, (width, height))
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        "( appsrc name=source is-live=true do-timestamp=true format=time max-buffers=1 leaky-type=downstream "
        f"caps={camera.caps((width, height))} ! videoconvert ! video/x-raw,format=I420 ! "
        f"{_ENCODERS[given.codec].format(fps=given.fps)} )"
    )
    factory.set_shared(True)
    tcp, udp = GstRtsp.RTSPLowerTrans.TCP, GstRtsp.RTSPLowerTrans.UDP
    factory.set_protocols({"all": tcp | udp, "tcp": tcp, "udp": udp}[given.protocols])
    factory.connect("media-configure", camera.configure)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(given.port))
    server.get_mount_points().add_factory("/camera", factory)
    if given.user:
        permissions = GstRtspServer.RTSPPermissions()
        for what in ("media.factory.access", "media.factory.construct"):
            permissions.add_permission_for_role("viewer", what, True)
        factory.set_permissions(permissions)
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth = GstRtspServer.RTSPAuth()
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(given.user, given.password), token)
        server.set_auth(auth)
    if not server.attach(None):
        sys.exit(f"port {given.port} is taken")

    def obey() -> None:
        for line in sys.stdin:
            command, *numbers = line.split()
            if command == "stall":
                camera.stalled_until = time.monotonic() + float(numbers[0])
            elif command == "size":
                camera.size = (int(numbers[0]), int(numbers[1]))
        # The test's process is gone.
        os._exit(0)

    threading.Thread(target=obey, daemon=True).start()
    sys.stdout.write(f"ready {server.get_bound_port()}\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


if __name__ == "__main__":
    _serve()
