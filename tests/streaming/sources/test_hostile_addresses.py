"""What an address gives may name its parts by HTTP; no file of this machine, no port, no other list."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mjpeg_server import MjpegServer, numbered_clip

from egolive.streaming.errors import SourceError
from egolive.streaming.sources.decoder import Decoder
from egolive.streaming.sources.opening import open_source


@pytest.fixture(scope="module")
def clip() -> bytes:
    return numbered_clip("mpegts")


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>"
)
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {} RTP/AVP 33\n"
CONCAT = "ffconcat version 1.0\nfile {}\n"


def test_parts_by_http_are_read(clip: bytes) -> None:
    files = {"list.m3u8": HLS.format("part.ts").encode(), "part.ts": clip}
    with MjpegServer(files=files) as server, open_source(server.url("list.m3u8")) as source:
        assert sum(1 for _ in source) == 20


@pytest.mark.parametrize("framing", ["length", "ranges"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", HLS.format("file://{}")),
        ("list.m3u8", HLS.format("{}")),
        ("list.m3u8", HLS.format("concat:{}")),
        ("list.m3u8", HLS.format("subfile,,start,0,end,0,,:{}")),
        ("list.mpd", DASH.format("file://{}")),
        ("list.mpd", DASH.format("{}")),
        ("list.mp4", CONCAT.format("file:{}")),
        ("list.mp4", CONCAT.format("list.mp4")),
        ("list.mp4", CONCAT.format("part.ts")),
        ("list.sdp", SDP.format(5004)),
    ],
)
def test_no_file_or_port_of_this_machine_is_opened_for_a_server(
    tmp_path: Path, clip: bytes, name: str, text: str, framing: str
) -> None:
    path = tmp_path / "private.ts"
    path.write_bytes(clip)
    with MjpegServer(files={name: text.replace("{}", str(path)).encode(), "part.ts": clip}) as server:
        server.framing = framing
        began = time.monotonic()
        with pytest.raises(SourceError) as caught:
            open_source(server.url(name), timeout=3)
        # What waits for a port ends with the timeout.
        assert time.monotonic() - began < 2.5
        assert len(str(caught.value).splitlines()) == 1
        assert not server.requests["GET /part.ts"]


@pytest.mark.parametrize("framing", ["length", "ranges"])
@pytest.mark.parametrize("text", [CONCAT.format("part.ts"), SDP.format(5004)])
def test_ffmpeg_itself_opens_no_list_of_files_from_an_address(clip: bytes, text: str, framing: str) -> None:
    with MjpegServer(files={"list.mp4": text.encode(), "part.ts": clip}) as server:
        server.framing = framing
        with pytest.raises(SourceError, match="not a video that can be read"):
            Decoder(server.url("list.mp4"), timeout=3)
        assert not server.requests["GET /part.ts"]
