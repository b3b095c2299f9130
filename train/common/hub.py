"""Upload of a finished model to the Hugging Face hub, and the check for experiment loggers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from transformers.integrations import get_available_reporting_integrations

from egolive.streaming.errors import ConfigError, DataError

__all__ = ["check_loggers", "upload"]


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
        reason = shorten(str(error), 200, placeholder=" ...")
        raise DataError(
            f"the model is in {folder}, but was not uploaded to {hub!r} ({reason}): `hf auth login`, "
            f"then `hf upload {hub} {folder}`"
        ) from error


def check_loggers(names: Sequence[str]) -> None:
    """Check that the loggers in `report_to` are installed, before training starts.

    Raises:
        ConfigError: it is not.
    """
    absent = set(names) - {"all", "none", *get_available_reporting_integrations()}
    for name in sorted(absent):
        raise ConfigError(f"report_to names {name}, which is not installed: pip install {name}")
