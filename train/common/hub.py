"""Upload of a finished model to the Hugging Face hub, and the check for experiment loggers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils._validators import validate_repo_id

from egolive.streaming.errors import ConfigError, DataError

__all__ = ["check_loggers", "check_login", "upload"]

_LOGIN_SECONDS = 10.0


def check_login(hub: str) -> None:
    """See that a model could be uploaded under a hub id, before training takes its hours.

    Raises:
        ConfigError: it is no hub id, nobody is logged in, or the login is not taken.
        DataError: the hub cannot be reached.
    """
    try:
        validate_repo_id(hub)
    except HFValidationError as error:
        raise ConfigError(f"--push-to-hub {shorten(hub, 100)!r} is no hub id: {_short(error)}") from error
    if get_token() is None:
        raise ConfigError("--push-to-hub needs a login: `hf auth login`, or set HF_TOKEN")
    failures: list[Exception | None] = []

    def ask() -> None:
        try:
            HfApi().whoami()
            failures.append(None)
        except Exception as error:  # told by the thread that waits
            failures.append(error)

    # The hub's own call has no time limit.
    waiting = threading.Thread(target=ask, name="hub login", daemon=True)
    waiting.start()
    waiting.join(_LOGIN_SECONDS)
    if not failures:
        raise DataError(f"the hub did not answer within {_LOGIN_SECONDS:.0f} s: train without --push-to-hub")
    [failure] = failures
    if isinstance(failure, HfHubHTTPError) and failure.response.status_code in (401, 403):
        raise ConfigError(
            "the hub does not take the login: `hf auth login` with a token that may write"
        ) from failure
    if failure is not None:
        raise DataError(
            f"the hub cannot be reached ({_short(failure)}): connect, or train without --push-to-hub and "
            "upload later with `hf upload`"
        ) from failure


def _short(error: BaseException) -> str:
    return shorten(str(error), 200, placeholder=" ...") or type(error).__name__


def upload(folder: Path, hub: str) -> None:
    """Upload a finished model under a hub id.

    Raises:
        DataError: the hub does not take it; the model stays where it is.
    """
    api = HfApi()
    try:
        api.create_repo(hub, exist_ok=True)
        api.upload_folder(repo_id=hub, folder_path=folder)
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise DataError(
            f"the model is saved in {folder}, but was not uploaded to {hub!r} ({_short(error)}): "
            f"`hf auth login`, then `hf upload {hub} {folder}`"
        ) from error


def check_loggers(names: Sequence[str]) -> None:
    """Check that the loggers in `report_to` are installed, before training starts.

    Raises:
        ConfigError: it is not.
    """
    from transformers.integrations import get_available_reporting_integrations

    absent = set(names) - {"all", "none", *get_available_reporting_integrations()}
    for name in sorted(absent):
        raise ConfigError(f"report_to names {name}, which is not installed: pip install {name}")
