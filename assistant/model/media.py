"""Reads the pictures and videos of a question from files, addresses or memory, as RGB pixels.

Pictures: file, file:// or http(s):// address, data URI, bare base64, bytes, Pillow image, array. Videos:
file, address, data URI, bare base64, bytes, folder of pictures, list of pictures. How large the model sees
them is decided in `prompts`; streams are read in `streaming`.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from egolive.streaming.errors import ConfigError, SourceError
from egolive.streaming.frames import Frame, Image, Slice, Window
from egolive.streaming.paths import brief, existing_path, without_file_scheme
from egolive.streaming.pipeline.windowing import FrameSampler
from egolive.streaming.sources.files.media_kind import kind_of
from egolive.streaming.sources.files.picture_files import read_picture, rgb_of
from egolive.streaming.sources.files.video_file import VideoFile
from egolive.streaming.sources.opening import open_file, open_source
from egolive.streaming.sources.source import Source

__all__ = [
    "Picture",
    "Video",
    "bundled_clip",
    "check_media",
    "given_frames",
    "is_video",
    "load_picture",
    "load_video",
    "window_of",
]

Picture = str | Path | bytes | PillowImage.Image | NDArray[np.uint8]
"""One picture: a path, an address, base64 text, encoded bytes, or pixels."""
Video = str | Path | bytes | Sequence[Picture]
"""A video file, a folder of pictures, a data URI, encoded bytes, or the frames themselves, oldest first."""

_VIDEO_SUFFIXES = (
    ".mp4",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".ts",
    ".flv",
    ".wmv",
    ".ogv",
)
_MOVING = ("animation", "video", "playlist")
_JPEGS = "data:video/jpeg;base64,"
"""How a data URI begins that holds a video as JPEGs with commas between them."""
_LONGEST_NAME = 1024
"""Longer texts are no names of files."""
_UNEVEN = 0.5
"""Part of the time between two frames by which one may be off its even place and still count as there."""
_KEPT = 8
"""Frames that are held for each one that is wanted, where they cannot be chosen beforehand."""
_DOWNLOAD_BYTES = 64 * 1024**2
_DOWNLOAD_SECONDS = 20.0


def bundled_clip() -> Path:
    """The clip that comes with the package.

    Raises:
        SourceError: The installation came without it.
    """
    folder = Path(str(resources.files("egolive.assistant"))) / "clips"
    clips = sorted(folder.glob("*.mp4"))
    if not clips:
        raise SourceError("this installation came without the bundled clip; name a source: egolive run FILE")
    return clips[0]


def is_video(source: str | Path | bytes) -> bool:
    """Whether something is a video (a folder of frames and an animation too) rather than one picture.

    Told by what it holds; an address, and what is not there, by its suffix.
    """
    if isinstance(source, bytes):
        return kind_of(source) in _MOVING
    text = str(source)
    if not _is_local(text):
        return Path(text.partition("?")[0]).suffix.lower() in _VIDEO_SUFFIXES
    if text.startswith(_JPEGS):
        return True
    try:
        held = _held(source)
    except SourceError:
        # Reading it will tell what is wrong.
        return False
    if held is not None:
        kind = kind_of(held[1])
        return kind in _MOVING or (kind == "unknown" and text.startswith("data:video/"))
    path = existing_path(without_file_scheme(text))
    if path is None:
        return Path(text).suffix.lower() in _VIDEO_SUFFIXES
    # FFmpeg knows kinds of videos that are not told by their first bytes.
    return path.is_dir() or (path.is_file() and kind_of(path) != "photo")


def load_picture(source: Picture) -> Image:
    """Read one picture, turned upright, transparency on white.

    Raises:
        SourceError: It is not there, cannot be reached, or is not a picture.
    """
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8:
            raise SourceError(
                f"a picture is an array (height, width, 3) of uint8, got {source.shape} {source.dtype}"
            )
        return source
    if isinstance(source, PillowImage.Image):
        return rgb_of(source)
    name, data = _bytes_of(source)
    return read_picture(data, name=name)


def load_video(
    source: Video,
    *,
    fps: float = 2.0,
    nframes: int | None = None,
    min_frames: int = 2,
    max_frames: int = 32,
    start: float | None = None,
    end: float | None = None,
    source_fps: float | None = None,
) -> list[Frame]:
    """Frames of a video, spread evenly over the stretch that is asked for.

    Args:
        source: What to read. Given frames are all kept; they are `1 / fps` seconds apart.
        fps: Frames a second, within the limits below.
        nframes: This number of frames instead; made even.
        min_frames: At least so many, where the video has them.
        max_frames: At most so many.
        start: Seconds at which the stretch begins; the video's start without it.
        end: Seconds at which it ends; the video's end without it.
        source_fps: Frames a second of a file without time stamps of its own, such as raw H.264.

    Returns:
        Frames in order of time, an even number where the video has more than one; times count from its start.

    Raises:
        SourceError: It cannot be read, or has no picture in that stretch.
        ConfigError: Settings that cannot work.
    """
    _check(fps, nframes, min_frames, max_frames, start, end)
    if (given := given_frames(source)) is not None:
        frames = [Frame(load_picture(item), index / fps, index) for index, item in enumerate(given)]
        if not frames:
            raise SourceError("a video of no frames was given; give at least one picture")
        return frames
    assert isinstance(source, str | Path | bytes)
    local = isinstance(source, bytes) or _is_local(str(source))
    with _opened(source, source_fps) as opened:
        if opened.live:
            raise SourceError(f"{opened.name}: a live source has no end; watch it with egolive run")
        name = opened.name
        if local and isinstance(opened, VideoFile):
            first, last = start or 0.0, np.inf if end is None else end
            wanted = opened.times(first, last, first_only=nframes == 1)
            if len(wanted):
                chosen = wanted[_spread(wanted, fps, nframes, min_frames, max_frames)]
                return list(opened.frames_at(chosen.tolist(), end=last))
        # No time stamps to choose from beforehand: thin it while it is read.
        kept, last = _thinned(opened, fps, nframes, start, end, most=_KEPT * (nframes or max_frames))
    if not kept:
        raise SourceError(
            f"{name}: no picture from {start or 0:g} s on; it is {last:.1f} s long, choose a stretch in it"
        )
    times = np.array([frame.time for frame in kept])
    return [kept[index] for index in _spread(times, fps, nframes, min_frames, max_frames)]


def _thinned(
    opened: Source, fps: float, nframes: int | None, start: float | None, end: float | None, *, most: int
) -> tuple[list[Frame], float]:
    """Frames of a stretch at most so often, half as often whenever there are too many to hold.

    Returns:
        The frames, and the time of the last one that was read.
    """
    sampler = FrameSampler(fps, opened.fps)
    kept: list[Frame] = []
    apart, last = 0.0, 0.0
    for frame in opened:
        last = frame.time
        if end is not None and last > end:
            break
        wanted = nframes is not None or sampler.push(frame)[0] is not None
        if last < (start or 0.0) or not wanted:
            continue
        if kept and last < kept[-1].time + apart:
            continue
        kept.append(frame)
        while len(kept) > most:
            # Twice as far apart as they are now, by time and not by number: rates may vary.
            apart = 2 * max(apart, (kept[-1].time - kept[0].time) / most)
            kept = _apart(kept, apart)
    return kept, last


def _apart(frames: Sequence[Frame], seconds: float) -> list[Frame]:
    """The frames that are at least so far behind the one before them, the first included."""
    kept = [frames[0]]
    for frame in frames[1:]:
        if frame.time >= kept[-1].time + seconds:
            kept.append(frame)
    return kept


def window_of(frames: Sequence[Frame]) -> Window:
    """Frames as one window; an odd last frame is shown twice."""
    paired = [*frames, *frames[-1:]] if len(frames) % 2 else list(frames)
    pairs = zip(paired[::2], paired[1::2], strict=True)
    return Window(tuple(Slice(first, second, index) for index, (first, second) in enumerate(pairs)))


def _check(
    fps: float, nframes: int | None, min_frames: int, max_frames: int, start: float | None, end: float | None
) -> None:
    if not 0 < fps <= 1000:
        raise ConfigError(f"fps is more than 0 and at most 1000, got {fps:g}")
    if nframes is not None and nframes < 1:
        raise ConfigError(f"nframes is at least 1, got {nframes}")
    if not 1 <= min_frames <= max_frames:
        raise ConfigError(
            f"min_frames is at least 1 and at most max_frames, got {min_frames} and {max_frames}"
        )
    if (start or 0.0) < 0 or (end is not None and end <= (start or 0.0)):
        raise ConfigError(
            f"the stretch from {start or 0:g} to {end} s is empty; give its start, then its end"
        )


def _bytes_of(source: str | Path | bytes) -> tuple[str, bytes]:
    """Encoded bytes of a picture, and what messages call it."""
    if isinstance(source, bytes):
        return "the picture", source
    text = str(source)
    if text.startswith(("http://", "https://")):
        return text, _download(text)
    if (held := _held(source)) is not None:
        return held
    path = existing_path(without_file_scheme(text))
    if path is None:
        raise SourceError(f"{brief(text)}: there is no such file; check the path")
    try:
        return text, path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"{brief(text)}: cannot be read ({error.strerror}); check the path and its rights"
        ) from error


def _held(source: str | Path) -> tuple[str, bytes] | None:
    """What a text holds as data, and what messages call it; None where it is a name or an address.

    Raises:
        SourceError: It is neither a name nor base64.
    """
    text = str(source)
    if text.startswith("data:"):
        header, _, body = text.partition(",")
        if not header.endswith(";base64"):
            raise SourceError(
                f"{brief(text)}: a data URI is written data:image/png;base64,... or data:video/mp4;base64,..."
            )
        return "the data URI", _decoded(body)
    if isinstance(source, Path) or "://" in text or len(text) < 64 or existing_path(text) is not None:
        return None
    # "/9j/" is how every JPEG begins in base64: it looks like a path.
    return ("the base64 text", _decoded(text)) if len(text) > _LONGEST_NAME or not Path(text).suffix else None


def given_frames(source: Video) -> list[Picture] | None:
    """The frames of a video that is given as its pictures: a list, or JPEGs in one data URI (vLLM's form).

    None where the source is something to be opened.
    """
    if not isinstance(source, str | Path | bytes):
        return list(source)
    if isinstance(source, str) and source.startswith(_JPEGS):
        return [_decoded(piece) for piece in source.removeprefix(_JPEGS).split(",")]
    return None


def check_media(source: str) -> None:
    """Tell early what cannot be read; the address of a video is not opened.

    Raises:
        SourceError: A picture or video is not there, or cannot be read.
    """
    if not is_video(source):
        load_picture(source)
    elif (frames := given_frames(source)) is not None:
        for frame in frames:
            load_picture(frame)
    elif _is_local(source):
        with _opened(source):
            pass


@contextmanager
def _opened(source: str | Path | bytes, source_fps: float | None = None) -> Iterator[Source]:
    """A video, opened; data lies in a temporary file meanwhile, for FFmpeg to jump in it."""
    held = ("the video", source) if isinstance(source, bytes) else _held(source)
    if held is None:
        text = str(source)
        with open_source(_local(text) if _is_local(text) else text, source_fps=source_fps) as opened:
            yield opened
        return
    name, data = held
    with tempfile.NamedTemporaryFile(prefix="egolive-") as file:
        file.write(data)
        file.flush()
        with open_file(Path(file.name), name=name, source_fps=source_fps) as opened:
            yield opened


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SourceError(
            f"{text[:8]}...: neither a file that is there nor base64; check the path"
        ) from error


def _download(address: str) -> bytes:
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "egolive"})
        with urllib.request.urlopen(request, timeout=_DOWNLOAD_SECONDS) as answer:
            data: bytes = answer.read(_DOWNLOAD_BYTES + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise SourceError(f"{address}: the server answers {error.code}; check the address") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise SourceError(
            f"{address}: cannot be reached ({reason}); check the address and the network"
        ) from error
    if len(data) > _DOWNLOAD_BYTES:
        limit = _DOWNLOAD_BYTES // 1024**2
        raise SourceError(f"{address}: larger than {limit} MiB; download it and give the file")
    return data


def _is_local(text: str) -> bool:
    return "://" not in text or text.startswith("file://")


def _local(text: str) -> Path:
    text = without_file_scheme(text)
    return existing_path(text) or Path(text)


def _spread(
    times: NDArray[np.float64], fps: float, nframes: int | None, min_frames: int, max_frames: int
) -> NDArray[np.intp]:
    """Which of the pictures to take: evenly spread in time, an even number where there are several."""
    count = len(times)
    step = (times[-1] - times[0]) / (count - 1) if count > 1 else 0.0
    duration = times[-1] - times[0] + step
    wanted = nframes or min(max(round(duration * fps), min_frames), max_frames)
    wanted -= wanted % 2 if wanted > 1 else 0
    number = min(wanted, count)
    if number > 1:
        number -= number % 2
    by_number = np.linspace(0, count - 1, number).round().astype(np.intp)
    even = np.linspace(times[0], times[-1], number)
    # At a nearly constant rate numbers are times, and a lost picture or a rounded time stamp moves nothing.
    if number < 2 or np.abs(times[by_number] - even).max() <= _UNEVEN * (even[1] - even[0]):
        return by_number
    # As many as are wanted, also where there are fewer pictures: where they are dense, each counts.
    even = np.linspace(times[0], times[-1], wanted)
    return _nearest(times, even, least=number if nframes else min(min_frames, number))


def _nearest(times: NDArray[np.float64], targets: NDArray[np.float64], *, least: int) -> NDArray[np.intp]:
    """The pictures nearest to some times, none twice, an even number of them.

    Args:
        times: Of the pictures, rising; at least two.
        targets: Rising, from the first picture's time to the last one's.
        least: So many at least; where the nearest are fewer, those that are left come in where time between
            the chosen is longest.
    """
    right = np.clip(np.searchsorted(times, targets), 1, len(times) - 1)
    near = np.where(targets - times[right - 1] <= times[right] - targets, right - 1, right)
    chosen = list(np.unique(near))
    while len(chosen) < max(least, 2) or len(chosen) % 2:
        # Pictures between two chosen ones, where the two are furthest apart in time.
        gaps = [(times[b] - times[a], a, b) for a, b in pairwise(chosen) if b - a > 1]
        if not gaps:
            return np.array(chosen[: len(chosen) - len(chosen) % 2], dtype=np.intp)
        _, a, b = max(gaps)
        middle = (times[a] + times[b]) / 2
        chosen.append(a + 1 + int(np.argmin(np.abs(times[a + 1 : b] - middle))))
        chosen.sort()
    return np.array(chosen, dtype=np.intp)
