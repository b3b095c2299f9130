"""Decodes a clip in a process of its own: `python -m egolive.demo.clips.decode_worker JSON`.

What others bring is decoded here, with limits on memory and pixels, so that a file can cost the server
neither; the process is ended when it takes too long. It writes records to its standard output: one letter,
the length of what follows (4 bytes, big endian), and H with facts as JSON, F with a frame (`FRAME_HEAD` and
RGB pixels), or E with an error for the visitor.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from egolive.assistant.model.media import load_video
from egolive.streaming.errors import EgoliveError, SourceError
from egolive.streaming.frames import Frame
from egolive.streaming.sources.files.media_kind import kind_of
from egolive.streaming.sources.files.video_file import VideoFile
from egolive.streaming.sources.limits import limit_pixels
from egolive.streaming.sources.opening import open_source

__all__ = ["FRAME_HEAD", "LONGEST", "RECORD_HEAD", "main"]

RECORD_HEAD = struct.Struct(">cI")
FRAME_HEAD = struct.Struct(">dQII")
"""Seconds, running number, width, height."""
LONGEST = 1920
"""Pixels of the longer side of what is handed on: larger pictures are made smaller here, so that they cost
the server neither memory nor time."""
_MOST_PIXELS = 36_000_000
"""Of one picture as it is decoded: 8K video has 33 million."""
_LEAST_SIDE = 16
"""Pixels: what is thinner shows nothing, and no video can be made of it."""
_MOST_MEMORY = 2 * 1024**3
"""Bytes."""


def main(arguments: list[str]) -> int:
    """Do what the argument asks for.

    Args:
        arguments: One, a JSON object: `path`; `chosen` with the arguments of `load_video` for some frames,
            without it all of them.

    Returns:
        The exit status.
    """
    wanted = json.loads(arguments[0])
    _limit_memory()
    limit_pixels(_MOST_PIXELS)
    out, path = sys.stdout.buffer, Path(wanted["path"])
    try:
        if "chosen" in wanted:
            for frame in load_video(path, **wanted["chosen"]):
                _write_frame(out, frame)
        else:
            _write_record(out, b"H", json.dumps(_facts(path)).encode())
            if not wanted.get("facts_alone"):
                with open_source(path) as source:
                    for frame in source:
                        _write_frame(out, frame)
    except EgoliveError as error:
        # Where the server keeps it is nobody's business.
        _write_record(out, b"E", str(error).replace(str(path), path.name).encode(errors="replace"))
    except MemoryError:
        _write_record(out, b"E", f"{path.name}: needs more memory than a clip may; save it smaller".encode())
    except BrokenPipeError:
        # The page has enough, and reads no more; Python would complain when it flushes at the end.
        os.close(1)
    return 0


def _limit_memory() -> None:
    """Where the system knows such limits: POSIX."""
    try:
        import resource
    except ImportError:
        return
    # Threads of libraries take address space that is never used, hence not RLIMIT_AS.
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _facts(path: Path) -> dict[str, object]:
    """Frames a second, size in pixels and length in seconds.

    Raises:
        SourceError: It is no video, or its length is not known.
    """
    if kind_of(path) == "photo":
        raise SourceError(f"{path.name}: a photo; a video is wanted here")
    with open_source(path) as source:
        # What is no file of FFmpeg is an animation, which Pillow reads.
        last = None if isinstance(source, VideoFile) else max(frame.time for frame in source)
        seconds = source.seconds if isinstance(source, VideoFile) else last
        if seconds is None:
            raise SourceError(f"{path.name}: does not tell how long it is; save it as MP4")
        if source.size is None or min(_smaller(*source.size)) < _LEAST_SIDE:
            raise SourceError(f"{path.name}: its pictures are too small or too thin to show anything")
        return {"fps": source.fps, "size": _smaller(*source.size), "seconds": seconds}


def _smaller(width: int, height: int) -> tuple[int, int]:
    """The size at which a picture is handed on."""
    scale = min(1.0, LONGEST / max(width, height))
    return round(width * scale), round(height * scale)


def _write_frame(out: BinaryIO, frame: Frame) -> None:
    image, size = frame.image, _smaller(frame.width, frame.height)
    if min(size) < _LEAST_SIDE:
        # Pictures may change their size in the middle of a stream.
        return
    if size != (frame.width, frame.height):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    head = FRAME_HEAD.pack(frame.time, frame.index, *size)
    out.write(RECORD_HEAD.pack(b"F", len(head) + image.nbytes) + head)
    out.write(np.ascontiguousarray(image).data)
    out.flush()


def _write_record(out: BinaryIO, kind: bytes, body: bytes) -> None:
    out.write(RECORD_HEAD.pack(kind, len(body)) + body)
    out.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
