"""Pictures and videos at hand: read from files, addresses and data, told apart, refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from egolive.assistant.media import is_video, load_picture, load_video, window_of
from egolive.streaming.errors import ConfigError, SourceError

REAL = Path(__file__).parents[2] / "shared" / "real"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("nowhere.png", "there is no such file"),
        ("data:image/png,abc", "base64"),
        ("data:image/png;base64,####", "base64"),
        (b"no picture", "not a picture"),
        ("SERVER/missing", "404"),
        ("http://127.0.0.1:1/x.png", "cannot be reached"),
        ("http://[broken/x.png", "cannot be reached"),
        (np.zeros((4, 4), np.uint8), "an array"),
    ],
    ids=["missing", "data uri", "base64", "bytes", "404", "no server", "bad address", "grey array"],
)
def test_a_picture_that_cannot_be_read_is_one_line(server: str, source: Any, expected: str) -> None:
    source = source.replace("SERVER", server) if isinstance(source, str) else source
    with pytest.raises(SourceError, match=expected) as caught:
        load_picture(source)
    assert "\n" not in str(caught.value)


def test_a_turned_picture_is_set_upright_and_transparency_is_white(tmp_path: Path) -> None:
    turned = PillowImage.new("RGB", (40, 20), (255, 0, 0))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert load_picture(tmp_path / "turned.jpg").shape == (40, 20, 3)
    PillowImage.new("RGBA", (4, 4), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    assert (load_picture(tmp_path / "clear.png") == 255).all()


def test_a_stretch_that_the_video_does_not_have_is_one_line(video: Path) -> None:
    with pytest.raises(SourceError, match=r"no picture from 20 s on; it is 9\.9 s long"):
        load_video(video, start=20.0)
    with pytest.raises(ConfigError, match="stretch"):
        load_video(video, start=3.0, end=2.0)


def test_times_of_a_stretch_count_from_the_start_of_the_video(video: Path) -> None:
    frames = load_video(video, start=7.0, nframes=4)
    assert [frame.time for frame in frames] == pytest.approx([7.0, 8.0, 8.9, 9.9], abs=0.06)
    assert window_of(frames).interval.start == pytest.approx(7.0)


@pytest.mark.skipif(not REAL.exists(), reason="the real material is not here")
def test_real_pictures_and_animations_are_told_apart() -> None:
    assert is_video(REAL / "video" / "hands" / "mixkit_baker_kneading.gif")
    assert not is_video(REAL / "images" / "ego10k_r0c1.png")
    assert len(load_video(REAL / "video" / "hands" / "mixkit_baker_kneading.gif")) == 10
