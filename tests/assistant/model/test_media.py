"""Pictures and videos at hand: read from files, addresses and data, told apart, refused in one line."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import REAL, needs_real
from PIL import Image as PillowImage

from egolive.assistant.model import media
from egolive.assistant.model.media import check_media, is_video, load_picture, load_video, window_of
from egolive.streaming.errors import ConfigError, SourceError


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


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("I;16", [0, 257 * 100, 65_535], [0, 100, 255]),
        ("I;16", [0, 514, 1028], [0, 2, 4]),
        ("I", [0, 100, 255], [0, 100, 255]),
        ("F", [0.0, 0.4, 1.0], [0, 102, 255]),
        ("F", [math.nan, 20.0, 255.0], [0, 20, 255]),
    ],
)
def test_greys_of_more_than_eight_bits_keep_their_order(
    tmp_path: Path, mode: str, values: list[float], expected: list[int]
) -> None:
    kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    path = tmp_path / "depth.tiff"
    PillowImage.fromarray(np.array([values], kinds[mode])).save(path)
    assert load_picture(path)[0].tolist() == [[grey] * 3 for grey in expected]


def test_of_a_long_folder_few_pictures_are_held_and_they_are_spread_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder whose name is a number is no camera.
    folder = tmp_path / "7"
    folder.mkdir()
    for number in range(60):
        PillowImage.new("RGB", (8, 6), (4 * number, 0, 0)).save(folder / f"{number}.png")
    monkeypatch.setattr(media, "_KEPT", 2)
    monkeypatch.chdir(tmp_path)
    frames = load_video("./7", max_frames=4)
    shown = [int(frame.image[0, 0, 0]) // 4 for frame in frames]
    assert shown[0] == 0
    assert shown[-1] >= 52
    assert np.diff(shown) == pytest.approx([18.7] * 3, abs=8)
    late = load_video("./7", start=20.0, end=25.0, max_frames=4)
    assert [frame.time for frame in late] == pytest.approx([20.0, 21.5, 23.5, 25.0], abs=0.6)
    with pytest.raises(SourceError, match=r"no picture from 40 s on; it is 29\.5 s long"):
        load_video("./7", start=40.0)


def test_a_stretch_that_the_video_does_not_have_is_one_line(video: Path) -> None:
    with pytest.raises(SourceError, match=r"no picture from 20 s on; it is 9\.9 s long"):
        load_video(video, start=20.0)
    with pytest.raises(ConfigError, match="stretch"):
        load_video(video, start=3.0, end=2.0)


def test_times_of_a_stretch_count_from_the_start_of_the_video(video: Path) -> None:
    frames = load_video(video, start=7.0, nframes=4)
    assert [frame.time for frame in frames] == pytest.approx([7.0, 8.0, 8.9, 9.9], abs=0.06)
    assert window_of(frames).interval.start == pytest.approx(7.0)


@needs_real
def test_real_pictures_and_animations_are_told_apart() -> None:
    assert is_video(REAL / "video" / "hands" / "mixkit_baker_kneading.gif")
    assert not is_video(REAL / "images" / "ego10k_r0c1.png")
    assert len(load_video(REAL / "video" / "hands" / "mixkit_baker_kneading.gif")) == 10


def encoded(form: str, count: int = 1) -> bytes:
    """Pictures from whose red their number is read, 0.2 s each."""
    shown = [PillowImage.new("RGB", (64, 48), (60 * number, 90, 20)) for number in range(count)]
    file = io.BytesIO()
    settings: dict[str, Any] = {"save_all": True, "append_images": shown[1:]} if count > 1 else {}
    shown[0].save(file, form, **settings, **({} if form == "MPO" else {"duration": 200}))
    return file.getvalue()


def data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(("form", "moving"), [("MPO", False), ("GIF", True), ("WEBP", True), ("PNG", True)])
def test_files_bytes_and_data_are_told_apart_by_what_they_hold(
    tmp_path: Path, form: str, moving: bool
) -> None:
    data = encoded(form, 4)
    path = tmp_path / ("media.mp4" if not moving else "media.jpg")
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    for source in (path, str(path), f"file://{path}", data, data_uri(data, "image/jpeg"), text):
        assert is_video(source) == moving
        if moving:
            frames = load_video(source, fps=5)
            assert [round(int(frame.image[9, 9, 0]) / 60) for frame in frames] == [0, 1, 2, 3]
            assert [frame.time for frame in frames] == pytest.approx([0.0, 0.2, 0.4, 0.6])
        assert load_picture(source).shape == (48, 64, 3)
        if not isinstance(source, bytes):
            check_media(str(source))


@pytest.mark.parametrize("kind", ["video/mp4", "video/quicktime", "application/octet-stream"])
def test_a_video_in_a_data_uri_or_in_bytes_is_the_same_video(video: Path, kind: str) -> None:
    data = video.read_bytes()
    wanted = load_video(video, start=3.0, nframes=4)
    for source in (data_uri(data, kind), data):
        assert is_video(source)
        found = load_video(source, start=3.0, nframes=4)
        assert [frame.time for frame in found] == [frame.time for frame in wanted]
        assert all((one.image == other.image).all() for one, other in zip(found, wanted, strict=True))


def test_jpegs_in_one_data_uri_are_frames() -> None:
    jpegs = [base64.b64encode(encoded("JPEG")).decode()] * 3
    source = "data:video/jpeg;base64," + ",".join(jpegs)
    assert is_video(source)
    assert [frame.time for frame in load_video(source, fps=4)] == [0.0, 0.25, 0.5]
    with pytest.raises(SourceError, match="not a picture"):
        check_media(source + "," + "AAAA" * 30)


@pytest.mark.parametrize(
    "source",
    [
        data_uri(b"no picture" * 200, "image/jpeg"),
        data_uri(b"no video" * 200, "video/mp4"),
        "data:video/mp4;base64," + "A" * 3001,
        "data:video/mp4," + "A" * 3000,
        "A" * 1000,
        "A" * 20_000,
        b"A" * 2000,
        data_uri(b"ffconcat version 1.0\nfile '/etc/passwd'\n" * 40, "video/mp4"),
    ],
    ids=["photo", "video", "cut", "no base64", "a name", "text", "bytes", "playlist"],
)
def test_a_message_never_repeats_the_data(source: Any) -> None:
    for load in (load_picture, load_video):
        with pytest.raises(SourceError) as told:
            load(source)
        assert "AAAAAAAAA" not in str(told.value)
        assert len(str(told.value)) < 200
        assert "egolive-" not in str(told.value)


def test_a_heif_photo_is_a_picture(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    path = tmp_path / "photo.mov"
    pillow_heif.from_pillow(PillowImage.new("RGB", (700, 600), (200, 90, 20))).save(path)
    assert not is_video(path)
    assert load_picture(path).shape == (600, 700, 3)
