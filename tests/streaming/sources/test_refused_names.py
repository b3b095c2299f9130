"""Names that no source can have are refused, and no message holds a password."""

from __future__ import annotations

import pytest

from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import SourceError
from egolive.streaming.sources.addresses import without_password
from egolive.streaming.sources.live.gstreamer import GstPipe
from egolive.streaming.sources.opening import open_source


@pytest.mark.parametrize(
    "spec",
    [
        "\0",
        "~nobody-has-this-name/clip.mp4",
        "x" * 5000,
        "/dev/video" + "9" * 300,
        "9" * 5000,
        "rtsp://u:secret@[:/x",
    ],
    ids=["no character of a name", "unknown user", "long", "long device", "long number", "no address"],
)
def test_a_name_that_no_source_can_have_is_refused(spec: str) -> None:
    with pytest.raises(SourceError) as told:
        open_source(spec)
    assert "secret" not in str(told.value)


def test_what_is_no_address_hides_its_password_too() -> None:
    assert without_password("rtsp://u:secret@[:/x") == "rtsp://***@[:/x"


def test_a_pipeline_with_an_open_quote_is_refused() -> None:
    with pytest.raises(SourceError, match="quotes"):
        GstPipe("gst-launch-1.0 'x", name="gst:'x", size=(64, 36), timeout=1, clock=VirtualClock())
