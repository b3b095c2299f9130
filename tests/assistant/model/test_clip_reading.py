"""Stretches of video files in the containers that people have: every picture shows its own number."""

import random
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numbered import number_of, write_numbered

from egolive.assistant.model.media import load_video
from egolive.streaming.errors import ConfigError
from egolive.streaming.sources.files import video_index
from egolive.streaming.sources.opening import open_source

FPS = 10
SECONDS = 30
STEADY = [number / FPS for number in range(FPS * SECONDS)]
UNSTEADY = [number / FPS for number in range(100)] + [10 + 1.0 * number for number in range(20)]
"""Ten seconds of ten pictures each, then twenty of one."""
OPEN = {"x264-params": "open-gop=1:b-adapt=0:scenecut=0"}
CLOSED = {"x264-params": "open-gop=0:b-adapt=0:scenecut=0"}
WRAP = 2**33 / 90_000
"""Seconds at which the clock of MPEG streams starts again."""


def at(start: float, times: list[float] = STEADY) -> list[float]:
    return [start + time for time in times]


FILES: dict[str, Callable[[Path], tuple[Path, list[float]]]] = {
    "mp4": lambda d: _x264(d / "a.mp4", STEADY, CLOSED),
    "mp4, B-frames and an edit list": lambda d: _x264(d / "a.mp4", STEADY, CLOSED, b_frames=3),
    "mp4, open GOP, offset": lambda d: _x264(d / "a.mp4", at(3.7), OPEN, b_frames=3),
    "mp4, variable rate": lambda d: _x264(d / "a.mp4", UNSTEADY, CLOSED, b_frames=2),
    "mp4, one key frame": lambda d: _x264(d / "a.mp4", STEADY, CLOSED, gop=1000),
    "fragmented mp4": lambda d: _x264(
        d / "a.mp4", STEADY, OPEN, b_frames=3, muxer={"movflags": "frag_keyframe+empty_moov"}
    ),
    "mkv, open GOP": lambda d: _x264(d / "a.mkv", STEADY, OPEN, b_frames=3),
    "mkv, variable rate": lambda d: _x264(d / "a.mkv", UNSTEADY, CLOSED),
    "ts, open GOP": lambda d: _x264(d / "a.ts", at(1.4), OPEN, b_frames=3),
    "ts, variable rate": lambda d: _x264(d / "a.ts", UNSTEADY, CLOSED, b_frames=2),
    "ts, clock wraps": lambda d: _x264(d / "a.ts", at(WRAP - 12), CLOSED, b_frames=2),
    "vob": lambda d: _other(d / "a.vob", "mpeg2video", STEADY, gop=15, b_frames=2),
    "avi": lambda d: _other(d / "a.avi", "mpeg4", STEADY),
    "avi, H.264 and B-frames": lambda d: _x264(d / "a.avi", STEADY, CLOSED, b_frames=3),
    "avi, H.264 and open GOP": lambda d: _x264(d / "a.avi", STEADY, OPEN, b_frames=3),
    "webm": lambda d: _other(d / "a.webm", "libvpx", STEADY),
    "webm, variable rate": lambda d: _other(d / "a.webm", "libvpx", UNSTEADY),
}


def _x264(
    path: Path,
    times: list[float],
    options: dict[str, str],
    *,
    b_frames: int = 0,
    gop: int = 25,
    muxer: dict[str, str] | None = None,
) -> tuple[Path, list[float]]:
    options = {"preset": "veryfast", **options}
    write_numbered(path, times, options=options, muxer=muxer, b_frames=b_frames, gop=gop)
    return path, times


def _other(
    path: Path, codec: str, times: list[float], *, gop: int = 25, b_frames: int = 0
) -> tuple[Path, list[float]]:
    write_numbered(path, times, codec=codec, gop=gop, b_frames=b_frames)
    return path, times


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("whole", [True, False], ids=["index", "stretch"])
def test_every_picture_lies_in_the_stretch_and_has_its_time(
    name: str, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        # Files of a test are small; large ones are read by the stretch.
        monkeypatch.setattr(video_index, "_SMALL", 0)
    path, written = FILES[name](tmp_path)
    true = np.array(written) - written[0]
    rng = random.Random(name)
    for _ in range(6):
        start = rng.uniform(0, true[-1] - 1)
        end = rng.uniform(start + 0.2, true[-1] + 1)
        inside = np.flatnonzero((true >= start - 1e-3) & (true <= end + 1e-3))
        if not len(inside):
            continue
        frames = load_video(path, start=start, end=end, fps=FPS, max_frames=400)
        numbers = [number_of(frame.image) for frame in frames]
        assert set(numbers) <= set(inside.tolist())
        assert numbers == sorted(set(numbers))
        assert [frame.time for frame in frames] == pytest.approx(true[numbers].tolist(), abs=2e-3)
        assert numbers[0] - inside[0] <= 1
        assert inside[-1] - numbers[-1] <= 1


@pytest.mark.parametrize("name", FILES)
def test_the_stream_has_the_same_times(name: str, tmp_path: Path) -> None:
    path, written = FILES[name](tmp_path)
    with open_source(path) as source:
        played = [(number_of(frame.image), frame.time) for frame in source]
    assert [number for number, _ in played] == list(range(len(written)))
    true = np.array(written) - written[0]
    assert [time for _, time in played] == pytest.approx(true.tolist(), abs=2e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_variable_rate_is_sampled_by_time(suffix: str, tmp_path: Path) -> None:
    path, _ = _x264(tmp_path / f"a.{suffix}", UNSTEADY, CLOSED)
    times = np.array([frame.time for frame in load_video(path, nframes=30, max_frames=30)])
    assert np.diff(times).max() <= 1.01
    assert np.diff(times).min() >= 0.5
    assert (times < 29 / 3).sum() == pytest.approx(10, abs=1)


def test_dense_parts_of_a_variable_rate_keep_their_pictures(tmp_path: Path) -> None:
    path, _ = _x264(tmp_path / "a.mp4", UNSTEADY, CLOSED)
    assert len(load_video(path, fps=2 * FPS, max_frames=2000)) == len(UNSTEADY)


@pytest.mark.parametrize("suffix", ["mp4", "ts", "mkv"])
@pytest.mark.parametrize("whole", [True, False], ids=["index", "stretch"])
def test_a_picture_at_the_very_end_belongs_to_the_stretch(
    suffix: str, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        monkeypatch.setattr(video_index, "_SMALL", 0)
    path, _ = _x264(tmp_path / f"a.{suffix}", STEADY, CLOSED, b_frames=2)
    for start, end in ((29.75, 29.9), (11.0, 11.1), (7.3, 7.4)):
        numbers = [number_of(frame.image) for frame in load_video(path, start=start, end=end, fps=FPS)]
        assert numbers[-1] == round(end * FPS)


def test_two_recordings_joined_read_the_same_by_stretch_and_by_stream(tmp_path: Path) -> None:
    first, _ = _x264(tmp_path / "a.ts", at(1.4), CLOSED, b_frames=2)
    second = write_numbered(
        tmp_path / "b.ts", at(1.4), options={"preset": "veryfast", **CLOSED}, b_frames=2, first=300
    )
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    with open_source(joined) as source:
        played = {number_of(frame.image): frame.time for frame in source}
    assert len(played) >= 599
    assert max(played.values()) == pytest.approx(2 * SECONDS, abs=0.3)
    for start, end in ((0.0, 61.0), (25.0, 35.0), (40.0, 50.0)):
        frames = load_video(joined, start=start, end=end, fps=2, max_frames=400)
        assert frames[0].time == pytest.approx(start, abs=0.3)
        assert frames[-1].time == pytest.approx(min(end, 60.0), abs=0.6)
        for frame in frames:
            assert frame.time == pytest.approx(played[number_of(frame.image)], abs=0.15)


def test_joined_recordings_are_noticed_in_large_files_without_reading_them_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_index, "_SMALL", 0)
    test_two_recordings_joined_read_the_same_by_stretch_and_by_stream(tmp_path)


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "mjpeg"), ("mkv", "mjpeg"), ("ts", "mpeg2video")])
def test_of_a_long_file_only_the_stretch_is_read(
    suffix: str, codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Path("/proc/self/io")
    if not counted.exists():
        pytest.skip("this system does not count what a process reads")

    def read_bytes() -> int:
        counts = counted.read_text().split()
        return int(counts[counts.index("rchar:") + 1])

    monkeypatch.setattr(video_index, "_SMALL", 0)
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (8, 96, 160, 3), dtype=np.uint8)
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream(codec, rate=25, options={"qmin": "2", "qmax": "2", "g": "5"})
        stream.width, stream.height = 160, 96
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(5000):
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(noise[number % 8], format="rgb24")))
        sink.mux(stream.encode(None))
    size = path.stat().st_size
    for start in (150.0, 20.0):
        before = read_bytes()
        frames = load_video(path, start=start, end=start + 5, fps=2)
        assert frames[0].time == pytest.approx(start, abs=0.05)
        # A fortieth of the file twice, for the times and for the pictures; and what opening it takes.
        assert read_bytes() - before <= size / 3


def test_raw_h264_is_read_at_the_rate_that_is_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_numbered(tmp_path / "a.h264", STEADY, options={"preset": "veryfast", **CLOSED}, b_frames=2)
    with open_source(path, source_fps=FPS) as source:
        played = [(number_of(frame.image), frame.time) for frame in source]
    assert not caplog.records
    assert [number for number, _ in played] == list(range(300))
    assert [time for _, time in played] == pytest.approx(STEADY, abs=1e-6)
    frames = load_video(path, start=20.0, end=22.0, fps=FPS, source_fps=FPS)
    assert [number_of(frame.image) for frame in frames][:2] == [200, 201]
    assert frames[0].time == pytest.approx(20.0)
    load_video(path, start=1.0, end=2.0)
    load_video(path, start=1.0, end=2.0)
    assert [record.getMessage().count("--source-fps") for record in caplog.records] == [1]


def test_a_rate_for_a_file_with_times_is_refused(tmp_path: Path) -> None:
    path, _ = _x264(tmp_path / "a.mp4", STEADY[:20], CLOSED)
    with pytest.raises(ConfigError, match="brings its own times"):
        open_source(path, source_fps=12)
