"""Everything that a user can name as input: it plays, or ends with one line that says what to do."""

import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import pytest
from av.video.reformatter import ColorRange, Colorspace
from paths import REAL, needs_real, real_files

from egolive.streaming import Frame, VideoWriter, VirtualClock, open_source
from egolive.streaming.errors import ConfigError, SourceError, SourceLost
from egolive.streaming.sources.addresses import without_password
from egolive.streaming.sources.decoder import Decoder
from egolive.streaming.sources.files.video_file import VideoFile
from egolive.streaming.sources.live.live_stream import LiveStream
from egolive.streaming.sources.rgb import RgbConverter, upright
from egolive.streaming.sources.wrappers import Looped, Paced

CODEC = REAL / "video" / "codec"
CLIPS = real_files("video")

SIZES = {
    "decord_video_0.mov": (568, 320),
    "decord_video_90.mov": (320, 568),
    "decord_video_180.mov": (568, 320),
    "decord_video_270.mov": (320, 568),
    "tc_nasa_13013_rotated.mp4": (270, 480),
    "tc_testsrc2_odd_height_and_width_vp9_10bit.mp4": (321, 241),
    "tc_testsrc2_odd_height_and_width_mpeg2.mp4": (121, 81),
    "tc_frame_exceeds_screen.gif": (4, 4),
}
COUNTS = {
    "decord_corrupted.mp4": 49,
    "decord_unordered.mov": 4,
    "rf_example_video.mp4": 431,
    "tc_discard_first_keyframe.mp4": 25,
    "tc_nasa_13013.mp4": 325,
    "tc_testsrc2_mpeg4.mp4": 1,
    "tc_animated.gif": 4,
}


def read(path: Path) -> list[Frame]:
    with open_source(path) as source:
        return list(source)


def write_clip(path: Path, times: list[float]) -> Path:
    with VideoWriter(path) as writer:
        for number, moment in enumerate(times):
            writer.write(np.full((32, 48, 3), (10 + number * 5) % 256, np.uint8), moment)
    return path


@needs_real
@pytest.mark.parametrize("path", CLIPS, ids=[path.name for path in CLIPS])
def test_every_real_clip_plays(path: Path) -> None:
    began = time.monotonic()
    frames = read(path)
    assert time.monotonic() - began < 30
    assert [f.index for f in frames] == list(range(len(frames)))
    assert frames[0].time == 0
    assert all(b.time > a.time for a, b in pairwise(frames))
    assert not any(f.gap for f in frames)
    for f in frames:
        assert f.image.dtype == np.uint8
        assert f.image.shape == frames[0].image.shape
        assert f.image.flags.c_contiguous
    if path.name in SIZES:
        assert (frames[0].width, frames[0].height) == SIZES[path.name]
    if path.name in COUNTS:
        assert len(frames) == COUNTS[path.name]


@needs_real
@pytest.mark.parametrize(
    "name",
    [
        "tc_bt601_full_range.mp4",
        "tc_bt601_limited_range.mp4",
        "tc_bt709_full_range.mp4",
        "tc_bt2020_10bit.mp4",
        "tc_testsrc2_12bit_hdr.mp4",
        "tc_testsrc2_hdr.mp4",
        "tc_testsrc2_444_10bit_hevc.mp4",
        "tc_testsrc2_av1_10bit.mp4",
        "tc_testsrc2_mpeg4.avi",
        "tc_testsrc2_vp8.webm",
    ],
)
def test_the_test_picture_looks_the_same_in_every_coding(name: str) -> None:
    """All hold FFmpeg's test pattern: black and white reach the ends and the mean is near the middle."""
    image = read(CODEC / name)[0].image
    assert image.min() <= 5
    assert image.max() >= 250
    assert image.mean((0, 1)) == pytest.approx([123, 126, 126], abs=6)


@pytest.mark.parametrize(
    ("matrix", "colour_range", "expected"),
    [
        (Colorspace.ITU601, ColorRange.MPEG, (254, 0, 0)),
        (Colorspace.ITU601, ColorRange.JPEG, (238, 14, 14)),
        (Colorspace.ITU709, ColorRange.MPEG, (255, 24, 0)),
        (Colorspace.ITU709, ColorRange.JPEG, (255, 36, 10)),
        (Colorspace.BT2020, ColorRange.MPEG, (255, 10, 0)),
    ],
)
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_colours_follow_the_matrix_and_the_range_that_the_stream_names(
    matrix: int, colour_range: int, expected: tuple[int, int, int], bits: int
) -> None:
    """The values expected are the standards' formulas for Y, Cb, Cr = 81, 90, 240."""
    picture = av.VideoFrame(16, 16, "yuv420p" if bits == 8 else f"yuv420p{bits}le")
    for plane, value in zip(picture.planes, (81, 90, 240), strict=True):
        sample = (value << (bits - 8)).to_bytes(1 if bits == 8 else 2, "little")
        plane.update(sample * (plane.buffer_size // len(sample)))
    # FFmpeg counts BT.601 as 6 (SMPTE 170M) in a stream, as 5 in its converter.
    picture.colorspace = 6 if matrix == Colorspace.ITU601 else int(matrix)
    picture.color_range = int(colour_range)
    image = RgbConverter()(picture)
    assert image.reshape(-1, 3).min(0).tolist() == pytest.approx(expected, abs=2)
    assert image.reshape(-1, 3).max(0).tolist() == pytest.approx(expected, abs=2)


@needs_real
def test_ten_bits_are_brought_to_eight() -> None:
    eight = read(CODEC / "tc_nasa_13013.mp4")[100].image.astype(int)
    ten = read(CODEC / "tc_nasa_13013_hdr.mp4")[100].image.astype(int)
    assert np.abs(eight - ten).mean() < 2


@needs_real
@pytest.mark.parametrize("name", ["decord_video_90.mov", "decord_video_180.mov", "decord_video_270.mov"])
def test_rotation_is_the_one_that_the_decoder_tells(name: str) -> None:
    with av.open(str(CODEC / name)) as container:
        raw = next(container.decode(video=0))
        assert raw.rotation != 0
        expected = np.rot90(raw.to_ndarray(format="rgb24"), raw.rotation // 90)
    assert np.array_equal(read(CODEC / name)[0].image, expected)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[1, 0], [0, 1]], "ab cd"),
        ([[0, 1], [-1, 0]], "ca db"),
        ([[-1, 0], [0, -1]], "dc ba"),
        ([[0, -1], [1, 0]], "bd ac"),
        ([[-1, 0], [0, 1]], "ba dc"),
        ([[1, 0], [0, -1]], "cd ab"),
        ([[0, 1], [1, 0]], "ac bd"),
        ([[0, -1], [-1, 0]], "db ca"),
    ],
    ids=["none", "90", "180", "270", "mirror", "flip", "transpose", "transverse"],
)
def test_turning_and_mirroring_put_the_corners_where_they_belong(
    matrix: list[list[int]], expected: str
) -> None:
    letters = np.array([[ord(c) for c in row] for row in ("ab", "cd")], np.uint8)
    fixed = np.zeros((3, 3), np.int32)
    fixed[:2, :2] = np.array(matrix) * 65536
    turned = upright(np.repeat(letters[..., None], 3, axis=2), fixed)[..., 0]
    assert " ".join(bytes(row).decode() for row in turned) == expected


@needs_real
def test_broken_pieces_are_skipped_and_counted() -> None:
    with open_source(CODEC / "decord_corrupted.mp4") as source:
        assert len(list(source)) == 49
        assert source.broken == 1


def test_times_are_real_where_the_frame_rate_varies(tmp_path: Path) -> None:
    times = [0.0, 0.033, 0.4, 0.41, 1.9, 2.0]
    clip = write_clip(tmp_path / "varying.mp4", times)
    assert [f.time for f in read(clip)] == pytest.approx(times, abs=1e-4)


def test_time_starts_at_zero_whatever_the_file_says(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "late.mp4", [7.0, 7.5, 8.0])
    assert [f.time for f in read(clip)] == pytest.approx([0, 0.5, 1.0], abs=1e-4)


def test_a_file_that_was_cut_off_plays_as_far_as_it_goes(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "whole.mp4", [i / 10 for i in range(40)])
    data = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    assert 10 <= len(read(tmp_path / "cut.mp4")) < 40


def test_names_that_look_like_patterns_or_protocols_are_just_names(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "rtsp:clip%03d.mp4", [0.0, 0.1])
    assert len(read(clip)) == 2


def one_line(spec: str | Path, match: str, **options: float) -> None:
    with pytest.raises(SourceError, match=match) as caught:
        open_source(spec, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert str(spec).split("@")[-1].split(":")[0] in str(caught.value)


def test_bad_input_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 50)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "a.png").write_bytes(b"\x89PNG but no more")
    one_line(tmp_path / "none.mp4", "no such file")
    one_line(tmp_path / "text.mp4", "not a video|holds no video")
    one_line(tmp_path / "empty.mp4", "not a video")
    one_line(tmp_path / "folder", "without pictures")
    one_line(tmp_path / "damaged", "none of its 1 pictures")
    one_line("/dev/null", "neither a file nor a folder")
    one_line("test:big", "not a test picture")
    one_line("rtsp://127.0.0.1:1/stream", "connection refused", timeout=1.0)


def test_a_sound_file_is_told_to_hold_no_video(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    one_line(path, "holds no video")


def test_an_option_that_does_not_fit_the_source_is_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [0.0, 0.1])
    with pytest.raises(ConfigError, match="fps"):
        open_source(clip, fps=10)
    with pytest.raises(ConfigError, match="size"):
        open_source(clip, size=(64, 64))
    with pytest.raises(ConfigError, match="fps"):
        open_source("test:", fps=0)


def test_a_password_never_reaches_a_message() -> None:
    assert without_password("rtsp://eve:s3cret@cam:554/a?b=1") == "rtsp://***@cam:554/a?b=1"
    assert without_password("rtsp://cam/a@b") == "rtsp://cam/a@b"
    asked = "rtmp://cam/bcs/x.bcs?channel=0&user=admin&password=s3cret&Token=abc#end"
    assert without_password(asked) == "rtmp://cam/bcs/x.bcs?channel=0&user=***&password=***&Token=***#end"
    with pytest.raises(SourceError) as caught:
        open_source("rtsp://eve:s3cret@127.0.0.1:1/stream", timeout=1.0)
    assert "s3cret" not in str(caught.value)


def test_pictures_of_a_folder_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (1, 2, 9, 10, 11):
        PIL.Image.new("RGB", (8, 6), (number * 20, 0, 0)).save(tmp_path / f"frame_{number}.png")
    (tmp_path / "frame_3.png").write_bytes(b"damaged")
    with open_source(tmp_path, fps=4) as source:
        assert not source.live
        frames = list(source)
        assert source.broken == 1
    assert [int(f.image[0, 0, 0]) // 20 for f in frames] == [1, 2, 9, 10, 11]
    assert [f.time for f in frames] == [0, 0.25, 0.75, 1.0, 1.25]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "1", "CMYK"])
def test_pictures_of_any_kind_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    white: Any = {"RGBA": (255, 255, 255, 255), "CMYK": (0, 0, 0, 0), "I;16": 65535, "1": 1}.get(mode, 255)
    picture = (
        PIL.Image.new("L", (9, 7), 255).convert("P") if mode == "P" else PIL.Image.new(mode, (9, 7), white)
    )
    picture.save(tmp_path / f"a.{suffix}")
    (frame,) = read(tmp_path)
    assert frame.image.shape == (7, 9, 3)
    assert frame.image.min() >= 250


def test_a_photo_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    picture = PIL.Image.new("RGB", (64, 32), "black")
    picture.paste("white", (0, 0, 32, 32))
    picture.save(tmp_path / "photo.jpg", exif=exif)
    (frame,) = read(tmp_path)
    assert (frame.width, frame.height) == (32, 64)
    assert frame.image[:28].min() > 200
    assert frame.image[36:].max() < 50


def test_the_test_picture_is_live_paced_and_endless() -> None:
    clock = VirtualClock()
    with open_source("test:64x48@20", clock=clock) as source:
        assert source.live
        assert (source.fps, source.size, source.name) == (20, (64, 48), "test:64x48@20")
        frames = list(islice(source, 41))
    assert frames[-1].time == pytest.approx(2.0)
    assert clock.now() == pytest.approx(2.0)


def test_a_recording_played_in_real_time_takes_its_own_time(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [0.0, 0.5, 3.0])
    clock = VirtualClock(start=50)
    moments = []
    with open_source(clip, realtime=True, clock=clock) as source:
        assert source.live
        for _ in source:
            moments.append(clock.now())
    assert moments == pytest.approx([50, 50.5, 53], abs=1e-4)


def test_a_loop_goes_on_in_time_and_marks_its_seam(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [0.0, 0.1, 0.2])
    with open_source(clip, loop=True) as source:
        assert isinstance(source, Looped)
        frames = list(islice(source, 7))
    assert [f.index for f in frames] == list(range(7))
    assert [f.gap for f in frames] == [i in (3, 6) for i in range(7)]
    assert all(0 < b.time - a.time < 0.2 for a, b in pairwise(frames))


def test_closing_ends_the_iteration_and_may_be_repeated(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [i / 10 for i in range(30)])
    for source in (
        open_source(clip),
        open_source(clip, loop=True),
        open_source("test:32x32@5", clock=VirtualClock()),
    ):
        frames: Iterator[Frame] = iter(source)
        next(frames)
        source.close()
        source.close()
        assert len(list(frames)) <= 1


def test_reading_goes_on_where_it_was_left(tmp_path: Path) -> None:
    with open_source(write_clip(tmp_path / "clip.mp4", [i / 10 for i in range(8)])) as source:
        read_first = list(islice(source, 3))
        rest = list(source)
    assert [f.index for f in (*read_first, *rest)] == list(range(8))
    assert rest[0].time == pytest.approx(0.3, abs=1e-4)


def test_frames_at_given_times_are_those_of_the_whole_file(tmp_path: Path) -> None:
    """At the start, across the length that is searched for a key frame, and between two frames."""
    clip = write_clip(tmp_path / "clip.mp4", [3 + i / 10 for i in range(120)])
    whole = read(clip)
    for wanted in ([0.0, 0.25, 4.0], [7.0, 7.05, 7.1, 11.9]):
        with VideoFile(Decoder(clip)) as source:
            assert len(source.times()) == 120
            frames = list(source.frames_at(wanted))
        expected = [next(f for f in whole if f.time >= time - 1e-4) for time in wanted]
        expected = list({f.index: f for f in expected}.values())
        assert [f.time for f in frames] == pytest.approx([f.time for f in expected], abs=1e-4)
        assert all(np.array_equal(a.image, b.image) for a, b in zip(frames, expected, strict=True))


def test_frames_behind_the_end_are_told_in_one_line(tmp_path: Path) -> None:
    with (
        VideoFile(Decoder(write_clip(tmp_path / "clip.mp4", [0.0, 0.1]))) as source,
        pytest.raises(SourceError, match="no picture can be decoded there"),
    ):
        list(source.frames_at([3.0]))


def test_a_live_stream_that_ends_is_lost(tmp_path: Path) -> None:
    video = LiveStream(Decoder(write_clip(tmp_path / "clip.mp4", [0.0, 0.1])))
    with video, pytest.raises(SourceLost, match="stream ended"):
        list(video)


def test_pacing_stops_at_once_when_closed(tmp_path: Path) -> None:
    clock = VirtualClock()
    paced = Paced(open_source(write_clip(tmp_path / "clip.mp4", [0.0, 100.0])), clock)
    frames = iter(paced)
    next(frames)
    paced.close()
    assert list(frames) == []
    assert clock.now() < 100
