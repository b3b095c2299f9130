"""Addresses of network sources: which are live, how they are named in messages, why one cannot be opened."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

import av

__all__ = ["LIVE_SCHEMES", "scheme_of", "why_not_opened", "without_password"]

LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt", "tcp"})

_SECRET = re.compile(
    r"([?&;][^=&;]*(?:pass|pwd|psw|token|secret|key|auth|user|login|sig)[^=&;]*=)[^&;#]*", re.IGNORECASE
)
"""A value in an address that its name gives away."""


def scheme_of(address: str) -> str:
    """What stands before "://" in an address, in lower case; "" for a path."""
    return urlsplit(address).scheme if "://" in address else ""


def without_password(address: str) -> str:
    """The address with users, passwords and keys replaced by stars, fit for messages."""
    if "://" not in address:
        return address
    address = _SECRET.sub(r"\1***", address)
    try:
        parts = urlsplit(address)
    except ValueError:
        # No address, but it may hold a password all the same.
        scheme, _, rest = address.partition("://")
        _, at, host = rest.rpartition("@")
        return f"{scheme}://***@{host}" if at else address
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"***@{host}")) if at and user else address


def why_not_opened(name: str, scheme: str, error: av.FFmpegError) -> str:
    """One line for the user: what FFmpeg's error most likely means, and what to do.

    Args:
        name: what messages call the source.
        scheme: of its address; "" for a file.
        error: what FFmpeg raised.
    """
    silent = isinstance(error, (av.error.ExitError, av.error.TimeoutError))
    # FFmpeg calls it invalid data when an RTSP server does not answer.
    if silent or (scheme and isinstance(error, av.error.InvalidDataError)):
        return f"{name}: no answer that can be read in time; check the address, the network and the camera"
    if isinstance(error, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)):
        return (
            f"{name}: access refused; put user and password into the address (rtsp://user:password@host/...)"
        )
    if scheme:
        return f"{name}: cannot be reached ({error.strerror}); check the address, the network and the camera"
    # An invalid argument is a format that is not read from files.
    if isinstance(error, av.error.InvalidDataError | av.error.ArgumentError):
        return f"{name}: not a video that can be read; it is of another kind, damaged or cut off"
    return f"{name}: cannot be opened ({error.strerror}); check the path and that you may read it"
