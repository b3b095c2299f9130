"""A certificate of one's own for HTTPS, which browsers accept after a warning."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from egolive.streaming.errors import ConfigError

__all__ = ["self_signed"]

_DAYS = "365"


def self_signed(folder: Path, names: Iterable[str]) -> tuple[Path, Path]:
    """Make a certificate.

    Args:
        folder: Where to.
        names: Names and addresses that it is for.

    Returns:
        Paths of the certificate and its key.

    Raises:
        ConfigError: There is no openssl to make it with, or it fails.
    """
    program = shutil.which("openssl")
    if program is None:
        raise ConfigError(
            "making a certificate needs the program openssl; install it, give --certificate and --key, "
            "or serve plain HTTP with --http"
        )
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    entries = ",".join(dict.fromkeys(map(_entry, names)))
    command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", _DAYS, "-subj", "/CN=egolive"]
    command += ["-addext", f"subjectAltName={entries}", "-addext", "basicConstraints=critical,CA:FALSE"]
    key.touch(mode=0o600)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"openssl could not make a certificate: {done.stderr.strip()[-200:]}")
    return certificate, key


def _entry(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"
