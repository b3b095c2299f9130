"""What a file holds decides how it is read, not its name; what only names other files is refused."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from egolive.streaming.errors import SourceError
from egolive.streaming.sources.decoder import Decoder
from egolive.streaming.sources.files import picture_files
from egolive.streaming.sources.files.media_kind import kind_of, picture_format
from egolive.streaming.sources.files.picture_files import read_picture
from egolive.streaming.sources.opening import open_source

TIMES = [0.0, 0.1, 0.3, 0.6]
"""When the pictures of an animation are shown, seconds."""
DURATIONS = [100, 200, 300, 400]


def picture(number: int, size: tuple[int, int] = (64, 48)) -> PillowImage.Image:
    """A picture from whose red its number is read."""
    return PillowImage.new("RGB", size, (40 * number, 90, 20))


def number_of(image: np.ndarray) -> int:
    return round(int(image[image.shape[0] // 2, image.shape[1] // 2, 0]) / 40)


def encoded(form: str, count: int = 1, **settings: object) -> bytes:
    file = io.BytesIO()
    more = {"save_all": True, "append_images": [picture(n) for n in range(1, count)]} if count > 1 else {}
    if form in ("GIF", "PNG", "WEBP", "AVIF") and count > 1:
        more["duration"] = DURATIONS
    picture(0).save(file, form, **more, **settings)
    return file.getvalue()


def video(form: str, codec: str = "mpeg4") -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = Fraction(1, 25)
        for number in range(4):
            container.mux(stream.encode(av.VideoFrame.from_image(picture(number))))
        container.mux(stream.encode(None))
    return file.getvalue()


def iso(major: bytes, *others: bytes, box: bytes = b"meta") -> bytes:
    """The beginning of an ISO file of these brands, with one more box at its top."""
    brands = major + b"\0\0\0\0" + b"".join(others)
    return (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + b"\0\0\0\x10" + box + b"\0" * 8


JPEG = encoded("JPEG")
XMP = b'<rdf:li><Container:Item Item:Semantic="Primary" Item:Mime="image/jpeg"/></rdf:li>'
ULTRA_HDR = JPEG[:2] + b"\xff\xe1" + (len(XMP) + 2).to_bytes(2, "big") + XMP + JPEG[2:] + JPEG

KINDS = {
    "jpeg": (JPEG, "photo"),
    "mpo": (encoded("MPO", 3), "photo"),
    "jpeg with a gain map behind it": (ULTRA_HDR, "photo"),
    "jpeg with a clip behind it": (JPEG + video("mp4"), "photo"),
    "jpegs in a row": (JPEG * 5, "video"),
    "jpeg cut off": (JPEG[:100], "photo"),
    "png": (encoded("PNG"), "photo"),
    "apng": (encoded("PNG", 4), "animation"),
    "gif": (encoded("GIF"), "photo"),
    "animated gif": (encoded("GIF", 4), "animation"),
    "webp": (encoded("WEBP"), "photo"),
    "animated webp": (encoded("WEBP", 4), "animation"),
    "avif": (encoded("AVIF"), "photo"),
    "animated avif": (encoded("AVIF", 4), "animation"),
    "tiff": (encoded("TIFF"), "photo"),
    "tiff of pages": (encoded("TIFF", 3), "photo"),
    "bmp": (encoded("BMP"), "photo"),
    "ppm": (encoded("PPM"), "photo"),
    "jpeg 2000": (encoded("JPEG2000"), "photo"),
    "tga": (encoded("TGA"), "photo"),
    "heic": (iso(b"heic", b"mif1", b"heic"), "photo"),
    "heic of a general brand": (iso(b"mif1", b"heic"), "photo"),
    "heic with a film beside it": (iso(b"heic", b"hevc", b"msf1", box=b"moov"), "photo"),
    "heif of an unknown brand": (iso(b"XXXX", b"mif1", b"heic"), "photo"),
    "heif sequence": (iso(b"hevc", b"msf1", b"heic", box=b"moov"), "animation"),
    "mp4 with a cover": (iso(b"isom", b"mp42", b"mif1", box=b"moov"), "video"),
    "quicktime": (iso(b"qt  ", b"qt  ", box=b"moov"), "video"),
    "mp4": (video("mp4"), "video"),
    "matroska": (video("matroska"), "video"),
    "avi": (video("avi"), "video"),
    "transport stream": (video("mpegts"), "video"),
    "program stream": (video("mpeg", "mpeg1video"), "video"),
    "hls": (b"#EXTM3U\n#EXTINF:1,\npart.ts\n", "playlist"),
    "hls with a mark": (b"\xef\xbb\xbf#EXTM3U\npart.ts\n", "playlist"),
    "concat": (b"ffconcat version 1.0\nfile 'x.mp4'\n", "playlist"),
    "dash": (b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>', "playlist"),
    "sdp": (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n", "playlist"),
    "pls": (b"[playlist]\nFile1=http://camera/x\n", "playlist"),
    "text": (b"not a video at all\n" * 50, "unknown"),
    "nothing": (b"", "unknown"),
}


@pytest.mark.parametrize(("data", "kind"), KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("suffix", [".jpg", ".mp4"])
def test_a_file_is_what_it_holds_whatever_its_name(
    tmp_path: Path, data: bytes, kind: str, suffix: str
) -> None:
    path = tmp_path / f"media{suffix}"
    path.write_bytes(data)
    assert kind_of(path) == kind
    assert kind_of(data) == kind


@given(st.binary(max_size=300), st.sampled_from([data for data, _ in KINDS.values()]), st.integers(0, 300))
def test_no_bytes_make_it_fail(noise: bytes, data: bytes, at: int) -> None:
    spoilt = data[:at] + noise + data[at + len(noise) // 2 :]
    assert kind_of(spoilt) in ("photo", "animation", "video", "playlist", "unknown")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged metadata.
@given(st.binary(max_size=40), st.sampled_from([data for data, _ in KINDS.values()]), st.floats(0, 1))
def test_a_spoilt_picture_is_read_or_refused(noise: bytes, data: bytes, place: float) -> None:
    at = int(place * len(data))
    with suppress(SourceError):
        assert read_picture(data[:at] + noise + data[at + len(noise) :], name="it").ndim == 3


def test_what_is_no_file_is_unknown(tmp_path: Path) -> None:
    assert kind_of(tmp_path) == "unknown"
    assert kind_of(tmp_path / "missing.jpg") == "unknown"
    assert picture_format(tmp_path) is None


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF"])
def test_an_animation_keeps_the_times_of_its_pictures(tmp_path: Path, form: str) -> None:
    path = tmp_path / "animation.jpg"
    path.write_bytes(encoded(form, 4))
    with open_source(path) as source:
        frames = list(source)
        assert (source.live, source.size, source.broken) == (False, (64, 48), 0)
    assert [frame.time for frame in frames] == pytest.approx(TIMES)
    assert [number_of(frame.image) for frame in frames] == [0, 1, 2, 3]
    assert [frame.index for frame in frames] == [0, 1, 2, 3]


def test_a_closed_animation_stops_at_the_next_picture(tmp_path: Path) -> None:
    path = tmp_path / "animation.webp"
    path.write_bytes(encoded("WEBP", 4))
    with open_source(path) as source:
        next(iter(source))
        source.close()
        assert list(source) == []


@pytest.mark.parametrize("form", ["MPO", "TIFF", "JPEG", "PNG", "BMP", "AVIF", "TGA"])
def test_a_photo_is_one_frame_the_first_of_several(tmp_path: Path, form: str) -> None:
    path = tmp_path / "photo.mp4"
    path.write_bytes(encoded(form, 3 if form in ("MPO", "TIFF") else 1))
    with open_source(path) as source:
        (frame,) = source
    assert frame.image.shape == (48, 64, 3)
    assert number_of(frame.image) == 0


@pytest.fixture
def heic(tmp_path: Path) -> Path:
    """A photo, black at the left and white at the right, larger than a tile."""
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    shown = PillowImage.new("RGB", (700, 600), "black")
    shown.paste("white", (350, 0, 700, 600))
    path = tmp_path / "photo.mp4"
    pillow_heif.from_pillow(shown).save(path)
    return path


def test_a_heif_photo_is_read_whole(heic: Path) -> None:
    with open_source(heic) as source:
        (frame,) = source
    assert frame.image.shape == (600, 700, 3)
    assert frame.image[:, :340].max() < 20
    assert frame.image[:, 360:].min() > 235


@pytest.fixture
def without_pillow_heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    picture_files._reads_heif.cache_clear()
    yield
    picture_files._reads_heif.cache_clear()


@pytest.mark.usefixtures("without_pillow_heif")
def test_without_pillow_heif_a_heif_photo_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "photo.heic"
    path.write_bytes(KINDS["heic"][0])
    for read in (open_source, lambda path: read_picture(path, name=str(path))):
        with pytest.raises(SourceError, match="pip install pillow-heif") as told:
            read(path)
        assert "\n" not in str(told.value)


def test_a_sequence_of_heif_pictures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "burst.heics"
    path.write_bytes(KINDS["heif sequence"][0])
    with pytest.raises(SourceError, match="sequence of HEIF pictures"):
        open_source(path)


LISTS = ["hls", "hls with a mark", "concat", "dash", "sdp", "pls"]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ffconcat", ".sdp"])
def test_a_local_list_of_other_files_is_refused(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"list{suffix}"
    path.write_bytes(KINDS[name][0])
    with pytest.raises(SourceError, match="a playlist, which only names other files"):
        open_source(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile clip.mkv\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.4,\nclip.ts\n#EXT-X-ENDLIST\n"),
        (
            "list.sdp",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        ),
        ("clip%d.xyz", ""),
    ],
)
def test_ffmpeg_itself_opens_no_list_from_a_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "clip.mkv").write_bytes(video("matroska"))
    (tmp_path / "clip.ts").write_bytes(video("mpegts"))
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match="not a video that can be read"):
        Decoder(tmp_path / name)


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path: Path) -> None:
    for name in ("50%02d.png", "5001.png"):
        (tmp_path / name).write_bytes(encoded("PNG"))
    (tmp_path / "5001.png").write_bytes(b"")
    with open_source(tmp_path / "50%02d.png") as source:
        assert [number_of(frame.image) for frame in source] == [0]


def test_the_address_of_a_file_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "a clip.jpg"
    path.write_bytes(video("mp4"))
    with open_source(f"file://{str(path).replace(' ', '%20')}") as source:
        assert [number_of(frame.image) for frame in source] == [0, 1, 2, 3]
    path.write_bytes(KINDS["concat"][0])
    with pytest.raises(SourceError, match="a playlist"):
        open_source(f"file://{str(path).replace(' ', '%20')}")


def test_the_pictures_of_a_folder_are_known_by_what_they_hold(tmp_path: Path) -> None:
    files: list[Callable[[], bytes]] = [
        lambda: encoded("JPEG"),
        lambda: encoded("WEBP", 4),
        lambda: encoded("MPO", 3),
        lambda: encoded("AVIF"),
    ]
    for number, data in enumerate(files):
        (tmp_path / f"{number}.dat").write_bytes(data())
    (tmp_path / "5.jpg").write_bytes(b"damaged")
    (tmp_path / "6.mp4").write_bytes(video("mp4"))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._0.jpg").write_bytes(b"\0\5\x16\7")
    (tmp_path / "folder.jpg").mkdir()
    with open_source(tmp_path) as source:
        assert [number_of(frame.image) for frame in source] == [0, 0, 0, 0]
        assert source.broken == 1
