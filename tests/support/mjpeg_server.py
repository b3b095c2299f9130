"""A camera and file server on plain HTTP, in threads of the test; pictures carry number and time of capture.

    with MjpegServer(fps=5) as server:
        open_source(server.url("stream.mjpg"))

Paths: `stream.mjpg` (multipart, without end), `snapshot.jpg` (the newest picture), every name in
`files` (finite), `moved/NAME` (a redirect to NAME), `status/404` (any status).
"""

from __future__ import annotations

import base64
import io
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import av
import numpy as np
import PIL.Image
from numbered_pictures import SIZE, paint

__all__ = ["MjpegServer", "numbered_clip"]


def numbered_clip(container: str, *, fps: int = 10, count: int = 20, size: tuple[int, int] = SIZE) -> bytes:
    """A video whose picture N carries the number N and the time N / fps; an MP4 has its index at the end.

    Args:
        container: FFmpeg's name, such as "mp4" or "mpegts".
        fps: Pictures a second.
        count: Pictures.
        size: Width and height, pixels.
    """
    data = io.BytesIO()
    with av.open(data, "w", format=container) as out:
        stream = out.add_stream("mpeg4", rate=fps, options={"qscale": "3", "g": "10"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(count):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(_pixels(number, number / fps, size))))
        out.mux(stream.encode(None))
    return data.getvalue()


def _pixels(number: int, time: float, size: tuple[int, int]) -> np.ndarray:
    return np.frombuffer(paint(number, time, size), np.uint8).reshape(size[1], size[0], 3)


class MjpegServer:
    """The server, as a context; its attributes may be changed while it runs.

    Args:
        fps: Pictures a second.
        size: Width and height, pixels.
        login: User and password that it asks for.
        files: Finite files by name, with what is in them.
    """

    def __init__(
        self,
        *,
        fps: float = 15,
        size: tuple[int, int] = SIZE,
        login: tuple[str, str] | None = None,
        files: dict[str, bytes] | None = None,
    ) -> None:
        self.fps = fps
        self.size = size
        self.login = login
        self.files = dict(files or {})
        self.framing = "length"
        """How files are sent: "length", "close" (ends with the connection), "chunked" or "ranges"."""
        self.head_allowed = True
        """Whether HEAD is answered; 405 otherwise."""
        self.conditional = True
        """Whether a snapshot carries an ETag, and 304 answers who has it."""
        self.frozen = False
        """Whether the camera takes no new picture: a snapshot stays the same."""
        self.stalled_until = 0.0
        """`time.monotonic()` until which nothing is answered or sent."""
        self.requests: Counter[str] = Counter()
        """How often each "METHOD /path" was asked for, and "connections"."""
        self.sent_bytes = 0
        """Of file contents."""
        self.port = 0
        self._origin = time.monotonic()
        self._newest: tuple[int, tuple[int, int], bytes] | None = None
        self._taking = threading.Lock()
        self._server: _Server | None = None

    def __enter__(self) -> MjpegServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def url(self, path: str, *, scheme: str = "http") -> str:
        """The address of a path, with user and password where it asks for them."""
        user = "{}:{}@".format(*(quote(part, safe="") for part in self.login)) if self.login else ""
        return f"{scheme}://{user}127.0.0.1:{self.port}/{path}"

    def start(self) -> None:
        """Start it; after `stop`, on the same port as before."""
        self._server = _Server(("127.0.0.1", self.port), self)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Hang up on everybody and listen no more."""
        if self._server is not None:
            server, self._server = self._server, None
            server.over.set()
            server.shutdown()
            server.server_close()

    def stall(self, seconds: float) -> None:
        """Answer and send nothing for so long; connections stay open."""
        self.stalled_until = time.monotonic() + seconds

    def picture(self) -> tuple[int, bytes]:
        """Number and JPEG of the newest picture; a new one is taken 1 / fps seconds after the last."""
        with self._taking:
            now = time.monotonic()
            number = int((now - self._origin) * self.fps)
            last = self._newest
            if last is None or (not self.frozen and (last[0] != number or last[1] != self.size)):
                data = io.BytesIO()
                PIL.Image.fromarray(_pixels(number, now, self.size)).save(data, "jpeg", quality=85)
                self._newest = last = (number, self.size, data.getvalue())
            return last[0], last[2]

    def until_next(self, number: int) -> float:
        """Seconds until the picture behind this one is taken."""
        return max(0.0, self._origin + (number + 1) / self.fps - time.monotonic())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], camera: MjpegServer) -> None:
        self.camera = camera
        self.over = threading.Event()
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no failure of the server."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(30)
        self.server.camera.requests["connections"] += 1

    def log_message(self, format: str, *args: object) -> None:
        """Tests need no log."""

    def end_headers(self) -> None:
        """Tell who asked for one answer alone that the connection ends with it, as servers must."""
        if self.close_connection:
            self.send_header("Connection", "close")
        super().end_headers()

    def do_HEAD(self) -> None:
        if not self.server.camera.head_allowed:
            self._end(405)
            return
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        camera = self.server.camera
        path = self.path.split("?")[0].lstrip("/")
        camera.requests[f"{self.command} /{path}"] += 1
        if not self._awake():
            return
        if camera.login is not None:
            expected = base64.b64encode(":".join(camera.login).encode()).decode()
            if self.headers.get("Authorization") != f"Basic {expected}":
                self._end(401, ("WWW-Authenticate", 'Basic realm="camera"'))
                return
        if path == "stream.mjpg":
            self._stream()
        elif path == "snapshot.jpg":
            self._snapshot()
        elif path.startswith("moved/"):
            self._end(302, ("Location", "/" + path.removeprefix("moved/")))
        elif path.startswith("status/"):
            self._end(int(path.removeprefix("status/")))
        elif path in camera.files:
            self._file(camera.files[path], path)
        else:
            self._end(404)

    def _awake(self) -> bool:
        """Wait for the end of a stall; False when the server is stopped first."""
        while (rest := self.server.camera.stalled_until - time.monotonic()) > 0:
            if self.server.over.wait(min(rest, 0.05)):
                self.close_connection = True
                return False
        return not self.server.over.is_set()

    def _end(self, status: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _stream(self) -> None:
        camera = self.server.camera
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=cut")
        self.end_headers()
        if self.command == "HEAD":
            return
        last = -1
        while not self.server.over.is_set():
            if not self._awake():
                return
            number, jpeg = camera.picture()
            if number != last:
                last = number
                head = f"--cut\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")
            self.server.over.wait(camera.until_next(number))

    def _snapshot(self) -> None:
        camera = self.server.camera
        number, jpeg = camera.picture()
        tag = f'"{number}"'
        if camera.conditional and self.headers.get("If-None-Match") == tag:
            self.send_response(304)
            self.send_header("ETag", tag)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(jpeg)))
        if camera.conditional:
            self.send_header("ETag", tag)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(jpeg)

    def _file(self, content: bytes, path: str) -> None:
        camera = self.server.camera
        asked = self.headers.get("Range", "")
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first or 0), int(last or len(content) - 1) + 1
        partial = camera.framing == "ranges" and bool(asked)
        if partial and start >= len(content):
            self._end(416)
            return
        body = content[start:end] if partial else content
        self.send_response(206 if partial else 200)
        kinds = {"ts": "video/mp2t", "mp4": "video/mp4"}
        self.send_header("Content-Type", kinds.get(path.rpartition(".")[2], "application/octet-stream"))
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(content)}")
        if camera.framing == "ranges":
            self.send_header("Accept-Ranges", "bytes")
        if camera.framing in ("length", "ranges"):
            self.send_header("Content-Length", str(len(body)))
        elif camera.framing == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return
        for begin in range(0, len(body), 4096):
            if self.server.over.is_set():
                self.close_connection = True
                return
            piece = body[begin : begin + 4096]
            if camera.framing == "chunked":
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            else:
                self.wfile.write(piece)
            camera.sent_bytes += len(piece)
        if camera.framing == "chunked":
            self.wfile.write(b"0\r\n\r\n")
