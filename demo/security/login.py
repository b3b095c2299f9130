"""User and password of the page, from a file or the environment, and the limit on wrong ones."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import stat
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from egolive.assistant.cli.printing import note
from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.errors import ConfigError, UsageError
from egolive.streaming.paths import existing_path

__all__ = ["VARIABLE", "Login", "read_login", "user_and_password"]

VARIABLE = "EGOLIVE_AUTH"
"""Environment variable that may hold "user:password"."""
_FREE = 5
"""Wrong passwords in a row before an address has to wait."""
_LONGEST = 900.0
"""Seconds that an address waits at most, and after which its wrong passwords are forgotten."""
_MOST_ADDRESSES = 4096
_MOST_BYTES = 4096


@dataclass(slots=True)
class _Wrong:
    count: int
    until: float
    """Time before which the address is not listened to."""
    last: float


class Login:
    """One user and password; wrong ones make an address wait 1, 2, 4 ... seconds, 15 minutes at most.

    Args:
        user: Its name.
        password: Its password.
        clock: What waiting is measured with; the machine's own without it.
    """

    def __init__(self, user: str, password: str, *, clock: Clock | None = None) -> None:
        self._login = f"{user}:{password}".encode()
        self._clock = clock or MonotonicClock()
        self._wrong: OrderedDict[str, _Wrong] = OrderedDict()

    def check(self, header: str, address: str) -> tuple[bool, float]:
        """Look at an `Authorization` header (RFC 7617).

        Args:
            header: Its value; empty where there is none, which is no attempt.
            address: Who sent it.

        Returns:
            Whether it is right, and the seconds that the address has to wait before it is listened to again.
        """
        now = self._clock.now()
        wrong = self._wrong.get(address)
        if wrong is not None and now - wrong.last > _LONGEST:
            del self._wrong[address]
            wrong = None
        if wrong is not None and now < wrong.until:
            return False, wrong.until - now
        if not header:
            return False, 0.0
        if _matches(header, self._login):
            self._wrong.pop(address, None)
            return True, 0.0
        wrong = wrong or _Wrong(0, now, now)
        wrong.count, wrong.last = wrong.count + 1, now
        if wrong.count >= _FREE:
            wrong.until = now + min(_LONGEST, 2.0 ** min(wrong.count - _FREE, 30))
        self._wrong[address] = wrong
        self._wrong.move_to_end(address)
        if len(self._wrong) > _MOST_ADDRESSES:
            self._wrong.popitem(last=False)
        return False, max(0.0, wrong.until - now)


def read_login(file: str | None) -> Login | None:
    """The login of a file, or of the environment variable EGOLIVE_AUTH; None where there is neither.

    The variable is removed, so that no other program started from here inherits it.

    Args:
        file: Path of a file whose first line is "user:password".

    Raises:
        UsageError: There is no such file, or it does not hold both.
        ConfigError: It cannot be read.
    """
    given = os.environ.pop(VARIABLE, None)
    if file is None:
        return None if given is None else Login(*user_and_password(given, VARIABLE))
    path = existing_path(file)
    if path is None or not path.is_file():
        if ":" in file:
            raise UsageError(
                "--auth takes a file: every program of this machine sees a password on the command line; "
                f"write user:password into a file and name it, or into the variable {VARIABLE}"
            )
        raise UsageError(f"--auth: there is no such file: {file}; its first line is user:password")
    return Login(*user_and_password(_first_line(path), f"--auth {file}"))


def user_and_password(text: str, place: str) -> tuple[str, str]:
    """Part "user:password".

    Args:
        text: Both, with a colon between.
        place: Where it stands, for the message.

    Raises:
        UsageError: One of the two is missing.

    Example:
        >>> user_and_password("wearer:a:b", "--auth login.txt")
        ('wearer', 'a:b')
    """
    user, colon, password = text.partition(":")
    if not colon or not user or not password:
        raise UsageError(
            f"{place}: write a user and a password with a colon between, for example wearer:secret"
        )
    return user, password


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            line = file.read(_MOST_BYTES).partition(b"\n")[0].strip().decode()
            if os.fstat(file.fileno()).st_mode & (stat.S_IRGRP | stat.S_IROTH):
                note(f"{path} can be read by other users of this machine; run chmod 600 {path}")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--auth {path}: cannot be read as text ({error})") from error
    return line


def _matches(header: str, login: bytes) -> bool:
    kind, _, value = header.partition(" ")
    try:
        given = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return False
    return kind.lower() == "basic" and hmac.compare_digest(given, login)
