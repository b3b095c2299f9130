"""RTSP cameras, with GStreamer's server on this machine: transports, refusals, passwords."""

from __future__ import annotations

import itertools
import traceback

import numbered_pictures
import pytest
from rtsp_server import RtspServer, needs_rtsp_server

from egolive.streaming.errors import SourceError
from egolive.streaming.sources.opening import open_source


@needs_rtsp_server
@pytest.mark.parametrize(
    ("offered", "asked"), [("udp", "auto"), ("udp", "udp"), ("tcp", "auto"), ("tcp", "tcp")]
)
def test_each_transport_is_found_or_chosen(offered: str, asked: str) -> None:
    with (
        RtspServer(fps=30, protocols=offered) as server,
        open_source(server.url, rtsp_transport=asked) as source,
    ):
        assert source.live
        shown = [numbered_pictures.read(frame.image).number for frame in itertools.islice(source, 5)]
    assert shown == list(range(shown[0], shown[0] + 5))


@needs_rtsp_server
def test_what_an_rtsp_server_refuses_is_named() -> None:
    login = ("ann", "p@ss:w/o?rd")
    with (
        RtspServer(fps=30, protocols="udp") as server,
        pytest.raises(SourceError, match="refuses this RTSP transport"),
    ):
        open_source(server.url, rtsp_transport="tcp")
    with RtspServer(fps=30, login=login) as server:
        with pytest.raises(SourceError, match=r"nothing is there \(404\)"):
            open_source(server.url.replace("/camera", "/wrong"))
        with pytest.raises(SourceError, match="access refused") as caught:
            open_source(server.url.replace("rd@", "xx@"))
        assert "p%40" not in "".join(traceback.format_exception(caught.value))
        with open_source(server.url) as source:
            assert next(iter(source)).width == 320
