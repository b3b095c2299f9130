"""Cameras on the network that answer, stall or go away, with a server on this machine as a stand-in."""

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import PIL.Image
import pytest

from egolive.streaming import Frame, Source, open_source
from egolive.streaming.errors import SourceError, SourceLost

HEADER = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=cut\r\n\r\n"


@contextmanager
def server(answer: bytes, *, hang_up: bool = False) -> Iterator[str]:
    """Sends `answer` to whoever asks, then keeps silent or hangs up; yields its host and port."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=send, args=(connection,), daemon=True).start()

    def send(connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):
            connection.recv(4096)
            connection.sendall(answer)
            if not hang_up:
                over.wait(30)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def pictures(count: int) -> bytes:
    """So many JPEG pictures in the parts of an answer without end."""
    data = io.BytesIO()
    PIL.Image.new("RGB", (64, 48), (200, 40, 20)).save(data, "jpeg")
    part = b"--cut\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data.getvalue())
    return (part + data.getvalue() + b"\r\n") * count + b"--cut\r\n"


def read_all(source: Source, frames: list[Frame]) -> None:
    for frame in source:
        frames.append(frame)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_server_that_never_answers_is_given_up(scheme: str) -> None:
    with server(b"") as host, pytest.raises(SourceError, match="no answer") as caught:
        open_source(f"{scheme}://eve:s3cret@{host}/stream", timeout=0.5)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("hang_up", "reason"), [(False, "no data for 0.5 s"), (True, "stream ended|connection broke")]
)
def test_a_camera_that_stalls_or_goes_away_is_lost(hang_up: bool, reason: str) -> None:
    frames: list[Frame] = []
    with (
        server(HEADER + pictures(60), hang_up=hang_up) as host,
        open_source(f"http://{host}/camera", timeout=0.5) as source,
    ):
        assert source.live
        assert source.size == (64, 48)
        with pytest.raises(SourceLost, match=reason):
            read_all(source, frames)
        assert source.dropped >= 50
    # They came all at once: the newest alone is what the camera sees now.
    assert len(frames) == 1
    assert frames[0].image[20, 20].tolist() == pytest.approx([200, 40, 20], abs=6)
