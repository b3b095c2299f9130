"""Addresses of network sources: which are live, how they are named in messages, why one cannot be opened."""

from __future__ import annotations

import re
import socket
from urllib.parse import unquote, urlsplit, urlunsplit

import av

__all__ = [
    "LIVE_SCHEMES",
    "NO_HOST",
    "refuses_transport",
    "scheme_of",
    "why_not_opened",
    "why_status",
    "without_password",
]

LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt", "tcp"})

_PARAMETER = re.compile(r"([?&;#][^=&;#]*=)[^&;#]*")
_SECRET = re.compile(r"pass|pwd|psw|token|secret|key|auth|user|usr|login|sig|cred|session", re.IGNORECASE)
"""Names of parameters whose values are secret."""
_OPEN_PASSWORD = re.compile(r":(?!\d*$)[^\]]*$")
"""A colon that is followed by no port: what should be the host begins with user and password."""
_EPROTONOSUPPORT = 93
"""How FFmpeg names RTSP's answer 461."""

NO_HOST = "there is no host of this name; check its spelling and the network"
"""What messages say of a name that is not resolved."""


def scheme_of(address: str) -> str:
    """What stands before "://" in an address, in lower case; "" for a path."""
    scheme, found, _ = address.partition("://")
    return scheme.lower() if found else ""


def without_password(address: str) -> str:
    """The address with users, passwords and keys replaced by stars, fit for messages."""
    if "://" not in address:
        return address
    address = _PARAMETER.sub(_masked, address)
    try:
        parts = urlsplit(address)
    except ValueError:
        # No address, but it may hold a password all the same.
        scheme, _, rest = address.partition("://")
        _, at, host = rest.rpartition("@")
        return f"{scheme}://***@{host}" if at else address
    if "@" not in parts.netloc and _OPEN_PASSWORD.search(parts.netloc) and "@" in address:
        # A password with a raw "/", "?" or "#" ends what counts as the host.
        scheme, _, rest = address.partition("://")
        return f"{scheme}://***@{rest.rpartition('@')[2]}"
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"***@{host}")) if at and user else address


def _masked(parameter: re.Match[str]) -> str:
    """A parameter of an address without its value where that is secret."""
    # The name, too, may be percent-encoded.
    return f"{parameter[1]}***" if _SECRET.search(unquote(parameter[1])) else parameter[0]


def why_not_opened(name: str, scheme: str, error: av.FFmpegError) -> str:
    """One line for the user: what FFmpeg's error most likely means, and what to do.

    Args:
        name: what messages call the source.
        scheme: of its address; "" for a file.
        error: what FFmpeg raised.
    """
    if isinstance(error, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)):
        return f"{name}: {why_status(401)}"
    if isinstance(error, av.error.HTTPNotFoundError):
        return f"{name}: {why_status(404)}"
    if isinstance(error, av.error.HTTPServerError):
        return f"{name}: {why_status(500)}"
    if refuses_transport(error):
        return f"{name}: the server refuses this RTSP transport; try --rtsp-transport auto, tcp or udp"
    if isinstance(error, av.error.ConnectionRefusedError):
        return f"{name}: connection refused: nothing listens at this port; check port and camera"
    silent = isinstance(error, (av.error.ExitError, av.error.TimeoutError))
    # FFmpeg calls it invalid data when an RTSP server does not answer.
    if silent or (scheme.startswith("rtsp") and isinstance(error, av.error.InvalidDataError)):
        return f"{name}: no answer that can be read in time; check the address, the network and the camera"
    # An invalid argument is a format that is not read from HTTP, such as a list of files.
    refused = scheme.startswith("http") and isinstance(error, av.error.ArgumentError)
    if refused or isinstance(error, (av.error.InvalidDataError, av.error.DecoderNotFoundError)):
        where = "check the path on the camera" if scheme else "it is of another kind, damaged or cut off"
        return f"{name}: not a video that can be read; {where}"
    if scheme and _is_unknown_host(error.filename):
        return f"{name}: {NO_HOST}"
    if scheme:
        return f"{name}: cannot be reached ({error.strerror}); check the address, the network and the camera"
    # An invalid argument is a format that is not read from files.
    if isinstance(error, av.error.ArgumentError):
        return f"{name}: not a video that can be read; it is of another kind, damaged or cut off"
    return f"{name}: cannot be opened ({error.strerror}); check the path and that you may read it"


def _is_unknown_host(address: object) -> bool:
    """Whether the host of an address has no number; FFmpeg calls that an input/output error."""
    try:
        host = urlsplit(str(address)).hostname
        return bool(host) and not socket.getaddrinfo(host, None)
    except socket.gaierror:
        return True
    except (ValueError, UnicodeError):
        return False


def refuses_transport(error: av.FFmpegError) -> bool:
    """Whether an RTSP server answered 461: it does not offer this transport."""
    return bool(error.errno == _EPROTONOSUPPORT)


def why_status(status: int) -> str:
    """What an HTTP or RTSP status of 400 and more most likely means, and what to do."""
    if status == 401:
        return "access refused; put user and password into the address (rtsp://user:password@host/...)"
    if status == 403:
        return "access refused (403); check user, password and what the camera allows this user"
    if status in (404, 410):
        return f"nothing is there ({status}); check the path on the camera"
    if status >= 500:
        return f"the server failed ({status}); restart the camera, or try again later"
    return f"the server refused ({status}); check the address"
