"""What a file or its bytes are, told by what they hold: a photo, an animation, a video, or a playlist.

Names are not looked at: a photo may be called clip.mp4, a playlist too. Addresses are told apart by their
suffix, in `assistant.model.media`. Nothing is decoded here, so what is damaged keeps the kind that its
beginning tells.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import BinaryIO, Literal

from PIL import Image as PillowImage

from egolive.streaming.sources.limits import open_picture

__all__ = ["MediaKind", "kind_of", "picture_format"]

MediaKind = Literal["photo", "animation", "video", "playlist", "unknown"]
"""photo: one picture, also of several views or pages. animation: GIF, WebP, APNG, AVIF of several pictures.
playlist: a text that names other files. unknown: none of these; FFmpeg may still know it as a video."""

_HEAD = 4096
"""Bytes of the beginning that are looked at."""
_LONGEST_JPEG = 64 * 1024**2
"""Bytes of a JPEG among which its end is looked for."""
_MOST_BOXES = 64
"""Boxes at the top of an ISO file that are looked at."""

_PICTURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"8BPS", "PSD"),
    (b"qoif", "QOI"),
)
_TARGA = b"TRUEVISION-XFILE.\0"
"""How a TGA ends; nothing tells it at its beginning."""
_PIXMAP = re.compile(rb"P[1-7f][\s#]|PF[\s]")
_VIDEOS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"OggS",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF, WMV
    b"\0\0\x01\xba",  # MPEG program stream, VOB
    b"\0\0\x01\xb3",  # MPEG video
    b"YUV4MPEG2 ",
    b"DKIF",  # IVF
    b"\x06\x0e\x2b\x34",  # MXF
)
_PHOTO_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"miaf", b"avif"))
_SEQUENCE_BRANDS = frozenset((b"hevc", b"hevx", b"hevm", b"hevs", b"msf1", b"avis"))
_LISTS = (
    b"#extm3u",
    b"ffconcat",
    b"[playlist]",
    b"rtsptext",
)
_XML_LISTS = re.compile(rb"<(?:mpd|smoothstreamingmedia|smil|asx|playlist|(?:\w+:)?compositionplaylist)[\s>]")
_SESSION = re.compile(rb"v=0\r?\n[a-z]=")
"""How the description of a stream (SDP) begins."""


def kind_of(source: Path | bytes) -> MediaKind:
    """What a file, or the bytes of one, holds; `unknown` too where it cannot be read.

    Example:
        >>> kind_of(b"ffconcat version 1.0")
        'playlist'
    """
    if isinstance(source, bytes):
        return _kind(io.BytesIO(source))
    try:
        # A pipe would wait for a writer.
        if not source.is_file():
            return "unknown"
        with source.open("rb") as file:
            return _kind(file)
    except OSError:
        return "unknown"


def picture_format(source: Path | bytes) -> str | None:
    """Pillow's name of the format of a picture, also of an animated one; None for anything else.

    Only the beginning is read, so that a folder of thousands of pictures is gone through quickly.
    """
    if isinstance(source, bytes):
        return _format(io.BytesIO(source))
    try:
        if not source.is_file():
            return None
        with source.open("rb") as file:
            return _format(file)
    except OSError:
        return None


def _kind(file: BinaryIO) -> MediaKind:
    form = _format(file)
    file.seek(0)
    if form == "JPEG":
        return _kind_of_jpeg(file)
    if form in ("AVIF", "HEIF"):
        return "animation" if _brands(file.read(_HEAD))[0] in _SEQUENCE_BRANDS else "photo"
    if form in ("GIF", "PNG", "WEBP"):
        return "animation" if _is_animated(file, form) else "photo"
    if form is not None:
        return "photo"
    head = file.read(_HEAD)
    if _is_playlist(head):
        return "playlist"
    return "video" if _is_video(head) else "unknown"


def _format(file: BinaryIO) -> str | None:
    head = file.read(_HEAD)
    for magic, form in _PICTURES:
        if head.startswith(magic):
            return form
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return _format_of_iso(file, head)
    if _PIXMAP.match(head):
        return "PPM"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124):
        return "BMP"
    if head[:4] == b"\0\0\x01\0" and 0 < int.from_bytes(head[4:6], "little") < 256:
        return "ICO"
    return "TGA" if _end(file, len(_TARGA)) == _TARGA else None


def _end(file: BinaryIO, count: int) -> bytes:
    file.seek(max(0, file.seek(0, io.SEEK_END) - count))
    return file.read(count)


def _brands(head: bytes) -> list[bytes]:
    """Brands of an ISO file: the major one, then those that it is compatible with."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    return [head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))]


def _format_of_iso(file: BinaryIO, head: bytes) -> str | None:
    """Whether an ISO file is a picture (HEIF, AVIF), not a film (MP4, QuickTime), which begins alike."""
    major, *others = _brands(head)
    pictures = _PHOTO_BRANDS | _SEQUENCE_BRANDS
    # A film may claim to be compatible with pictures for the sake of its cover; then it has a film's table.
    if major not in pictures and (pictures.isdisjoint(others) or _has_film(file)):
        return None
    return "AVIF" if {major, *others} & {b"avif", b"avis"} else "HEIF"


def _has_film(file: BinaryIO) -> bool:
    """Whether an ISO file has a `moov` box at its top."""
    position = 0
    for _ in range(_MOST_BOXES):
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            return False
        if header[4:8] in (b"moov", b"moof"):
            return True
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:
            return False
        position += size
    return False


def _kind_of_jpeg(file: BinaryIO) -> MediaKind:
    """JPEGs one behind the other are a video (Motion JPEG), unless the first says that they are views.

    MPO and Ultra HDR say so in an MPF segment, others in an XMP directory. What else is appended to a photo,
    such as the clip of a motion photo, is no matter.
    """
    data = file.read(_LONGEST_JPEG)
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at + 4 : at + 2 + length]
        if (marker == 0xE2 and segment.startswith(b"MPF\0")) or (marker == 0xE1 and b"Container:" in segment):
            return "photo"
        if marker == 0xDA:
            end = data.find(b"\xff\xd9", at)
            return "video" if end > 0 and data[end + 2 : end + 5] == b"\xff\xd8\xff" else "photo"
        # A marker may be filled up with 0xff.
        at += 1 if marker == 0xFF else 2 + length
    return "photo"


def _is_animated(file: BinaryIO, form: str) -> bool:
    try:
        with open_picture(file, (form,)) as opened:
            return bool(getattr(opened, "is_animated", False))
    except (OSError, ValueError, SyntaxError, EOFError, PillowImage.DecompressionBombError):
        return False


def _is_playlist(head: bytes) -> bool:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_LISTS) or _SESSION.match(text):
        return True
    return text.startswith(b"<") and _XML_LISTS.search(text) is not None


def _is_video(head: bytes) -> bool:
    if head.startswith(_VIDEOS) or (head[:4] == b"RIFF" and head[8:11] == b"AVI"):
        return True
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
        return True
    # MPEG transport stream: a mark every 188 bytes, or every 192 with four bytes of time before each.
    return any(
        len(head) > start + 2 * size and all(head[start + n * size] == 0x47 for n in range(3))
        for start, size in ((0, 188), (4, 192))
    )
