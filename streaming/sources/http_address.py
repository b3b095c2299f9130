"""What an HTTP address gives, found out before FFmpeg opens it: a stream, a file or a single picture.

One GET, closed after the header and the first bytes: many cameras answer no HEAD. A file whose server gives
no parts of it is fetched whole, since an MP4 may have its index at the end.
"""

from __future__ import annotations

import enum
import logging
import re
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx

from egolive.streaming.errors import SourceError
from egolive.streaming.sources.addresses import NO_HOST, why_status, without_password

__all__ = ["HttpCaller", "Kind", "Probed", "is_picture", "probe"]

_log = logging.getLogger(__name__)

_HEAD = 64 * 1024
"""Bytes that tell what it is."""
_SHORT_SECONDS = 0.5
_SHORT_BYTES = 8 << 20
"""An answer without length that ends within this is a file."""
_MOST_BYTES = 2 << 30
"""Longest file that is fetched whole."""
_TOLD_BYTES = 32 << 20
"""Files above this are announced before they are fetched."""
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM")


class Kind(enum.Enum):
    """What an address gives."""

    STREAM = "stream"
    """Without a known end, or a playlist: FFmpeg finds out."""
    FILE = "file"
    """With an end; the server gives any part of it."""
    FETCHED = "fetched"
    """With an end; it was fetched, since the server gives no parts."""
    PICTURE = "picture"
    """One picture, to be asked for again and again."""


class Probed:
    """Kind of an address, and the temporary file with its content where it was fetched."""

    def __init__(self, kind: Kind, content: IO[bytes] | None = None) -> None:
        self.kind = kind
        self.content = content


class HttpCaller:
    """A kept connection to one address, with the user and password that it names.

    Args:
        address: with user and password, percent-encoded or not.
        timeout: seconds to wait for each answer.
    """

    def __init__(self, address: str, timeout: float) -> None:
        self.name = without_password(address)
        parts = urlsplit(address)
        user, at, host = parts.netloc.rpartition("@")
        self._url = urlunsplit(parts._replace(netloc=host, fragment=""))
        name, _, password = user.partition(":")
        self._login = (unquote(name), unquote(password)) if at else None
        self._auth: httpx.Auth | None = httpx.BasicAuth(*self._login) if self._login else None
        self._timeout = timeout
        # Cameras sign their own certificates, and FFmpeg takes these too.
        self._client = httpx.Client(
            timeout=timeout, verify=False, trust_env=False, follow_redirects=True, max_redirects=5
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @contextmanager
    def get(self, headers: dict[str, str] | None = None) -> Iterator[httpx.Response]:
        """The answer to one GET, its body unread.

        Raises:
            SourceError: no answer, or one that refuses.
        """
        with self._told(), self._client.stream("GET", self._url, headers=headers, auth=self._auth) as answer:
            challenge = answer.headers.get("WWW-Authenticate", "")
            if answer.status_code != 401 or self._login is None or not challenge.lower().startswith("digest"):
                self._check(answer)
                yield answer
                return
        self._auth = httpx.DigestAuth(*self._login)
        with self._told(), self._client.stream("GET", self._url, headers=headers, auth=self._auth) as answer:
            self._check(answer)
            yield answer

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code >= 400:
            raise SourceError(f"{self.name}: {why_status(answer.status_code)}")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell the user what httpx's errors mean; they may hold the address, so they are not chained."""
        try:
            yield
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise SourceError(f"{self.name}: not an address that can be read; check its spelling") from None
        except httpx.TooManyRedirects:
            raise SourceError(f"{self.name}: redirected without end; check the address") from None
        except httpx.TimeoutException:
            raise SourceError(
                f"{self.name}: no answer within {self._timeout:g} s; "
                "check the address, the network and the camera"
            ) from None
        except httpx.ConnectError as error:
            raise SourceError(f"{self.name}: {_why_not_connected(error)}") from None
        except httpx.HTTPError as error:
            what = type(error).__name__
            raise SourceError(
                f"{self.name}: no answer that can be read ({what}); check the address and the camera"
            ) from None


def _why_not_connected(error: BaseException) -> str:
    """What lies below a connection error of httpx, and what to do."""
    text = str(error).lower()
    below: BaseException | None = error
    while below is not None and not isinstance(below, ssl.SSLError):
        below = below.__cause__ or below.__context__
    if below is not None or "ssl" in text or "certificate" in text:
        return "no TLS connection; try http:// in place of https://, or check the camera's certificate"
    if re.search(r"name or service|name resolution|nodename|getaddrinfo|no address", text):
        return NO_HOST
    if "refused" in text:
        return "connection refused: nothing listens at this port; check port and camera"
    return "cannot be reached; check the address, the network and the camera"


def is_picture(head: bytes) -> bool:
    """Whether these are the first bytes of a photo."""
    return head.startswith(_PICTURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def probe(address: str, timeout: float) -> Probed:
    """What an address gives; a file is fetched here where it must be.

    Args:
        address: http or https.
        timeout: seconds to wait for each answer.

    Raises:
        SourceError: no answer, one that refuses, or a file that is too long to be fetched.
    """
    caller = HttpCaller(address, timeout)
    try:
        # What FFmpeg asks: the answer is a part where parts are given.
        with caller.get({"Range": "bytes=0-", "Accept-Encoding": "identity"}) as answer:
            return _judged(answer, caller.name)
    finally:
        caller.close()


def _judged(answer: httpx.Response, name: str) -> Probed:
    kind = answer.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        return Probed(Kind.STREAM)
    length = _length(answer)
    body = answer.iter_raw()
    head = b""
    while len(head) < 16:
        piece = next(body, None)
        if piece is None:
            break
        head += piece
    if is_picture(head) and (length is not None or kind.startswith("image/")):
        return Probed(Kind.PICTURE)
    if head.lstrip(b"\xef\xbb\xbf").startswith((b"#EXTM3U", b"<?xml", b"<MPD")):
        return Probed(Kind.STREAM)
    if kind == "text/html" or head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise SourceError(f"{name}: a web page, not a video; give the address of the camera's stream")
    if length == 0 or not head:
        raise SourceError(f"{name}: an empty answer; check the path on the camera")
    if length is None:
        return _without_length(head, body, name)
    if answer.status_code == 206 or answer.headers.get("Accept-Ranges", "").lower() == "bytes":
        return Probed(Kind.FILE)
    if length > _MOST_BYTES:
        raise SourceError(
            f"{name}: {length >> 20} MB, and the server gives no parts of it; download it and give the file"
        )
    if length > _TOLD_BYTES:
        _log.warning("%s: the server gives no parts of it; fetching all of its %d MB", name, length >> 20)
    return Probed(Kind.FETCHED, _fetched(head, body, name, length))


def _length(answer: httpx.Response) -> int | None:
    """Bytes of the whole, where the answer says."""
    match = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.headers.get("Content-Range", ""))
    text = match[1] if match else answer.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdecimal() else None


def _without_length(head: bytes, body: Iterator[bytes], name: str) -> Probed:
    """A short file, an MP4 whose index comes last, or a stream."""
    while len(head) < _HEAD and _index_is_late(head) is None and (piece := next(body, b"")):
        head += piece
    if _index_is_late(head):
        return Probed(Kind.FETCHED, _fetched(head, body, name, None))
    until = time.monotonic() + _SHORT_SECONDS
    pieces = [head]
    size = len(head)
    for piece in body:
        pieces.append(piece)
        size += len(piece)
        if size > _SHORT_BYTES or time.monotonic() > until:
            return Probed(Kind.STREAM)
    return Probed(Kind.FETCHED, _fetched(b"".join(pieces), iter(()), name, None))


def _index_is_late(head: bytes) -> bool | None:
    """Whether an MP4 begins with its pictures; False for all that is none, None where more must be read."""
    if len(head) < 16:
        return None
    if head[4:8] != b"ftyp":
        return False
    at = 0
    while at + 8 <= len(head):
        size, kind = int.from_bytes(head[at : at + 4], "big"), head[at + 4 : at + 8]
        if kind in (b"moov", b"mdat", b"moof"):
            return kind == b"mdat"
        if size < 8:
            return False
        at += size
    return None


def _fetched(head: bytes, body: Iterator[bytes], name: str, length: int | None) -> IO[bytes]:
    """A temporary file with all of it, removed when it is closed.

    Raises:
        SourceError: it is cut off, too long, or the disk is full.
    """
    content: IO[bytes] = tempfile.NamedTemporaryFile(prefix="egolive-", suffix=".video")  # noqa: SIM115
    try:
        size = content.write(head)
        for piece in body:
            size += content.write(piece)
            if size > _MOST_BYTES:
                raise SourceError(
                    f"{name}: more than {_MOST_BYTES >> 20} MB without an index at its start; "
                    "download it and give the file"
                )
        content.flush()
    except OSError as error:
        content.close()
        raise SourceError(f"{name}: cannot be kept in a temporary file ({error.strerror})") from None
    except BaseException:
        content.close()
        raise
    if length is not None and size < length:
        content.close()
        raise SourceError(f"{name}: the connection broke after {size} of {length} bytes; try again")
    return content
