"""Names and addresses under which the server answers.

A page of another site can have its own name point at this machine (DNS rebinding): its requests then come
from the wearer's browser and count as same-origin there. They carry that name in `Host`, which is not among
ours. An IP address cannot be pointed anywhere, so every one is taken: behind a container or a port forward,
the machine does not know the address under which it is reached.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

import psutil

__all__ = ["HostNames", "client_network", "is_loopback", "own_addresses", "own_names"]

_NAME = re.compile(r"([A-Za-z0-9._-]{1,253})(?::\d{1,5})?")
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\](?::\d{1,5})?")


class HostNames:
    """The values of `Host` that are answered: IP addresses, this machine's names, and those allowed."""

    def __init__(self, host: str = "127.0.0.1", allowed: Iterable[str] = ()) -> None:
        """Collect the names.

        Args:
            host: What the server listens on.
            allowed: Further names, without a port.
        """
        self._names = {name.lower().rstrip(".") for name in (*own_names(), host, *allowed)}

    def know(self, header: str) -> bool:
        """Whether a `Host` header names this server.

        Example:
            >>> names = HostNames(allowed=["glasses.example"])
            >>> names.know("localhost:7860"), names.know("[::1]:7860"), names.know("glasses.example")
            (True, True, True)
            >>> names.know("evil.example:7860"), names.know("")
            (False, False)
        """
        if found := _BRACKETED.fullmatch(header):
            return _address(found[1]) is not None
        if not (found := _NAME.fullmatch(header)):
            return False
        name = found[1].lower().rstrip(".")
        return name in self._names or _address(name) is not None


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach this address."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def client_network(address: str | None) -> str:
    """What counts as one visitor's address: an IPv4 address, or the /64 network of an IPv6 address."""
    found = _address((address or "").partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        if not found.is_loopback:
            return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def own_names() -> list[str]:
    """Names of this machine that need no name server."""
    name = socket.gethostname().lower()
    return list(dict.fromkeys(("localhost", name, f"{name.partition('.')[0]}.local")))


def own_addresses() -> list[str]:
    """Addresses at which other machines reach this one, IPv4 first."""
    cards = psutil.net_if_stats()
    found = [
        entry.address
        for card, entries in psutil.net_if_addrs().items()
        if card in cards and cards[card].isup
        for entry in sorted(entries, key=lambda entry: entry.family)
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]
    parsed = {text: _address(text) for text in found}
    return [
        text
        for version in (4, 6)
        for text, address in parsed.items()
        if address is not None
        and address.version == version
        and not (address.is_loopback or address.is_link_local)
    ]


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
