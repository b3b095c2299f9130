"""The files under `static/`, of which the page is made."""

from __future__ import annotations

from importlib import resources

__all__ = ["static_text"]


def static_text(name: str) -> str:
    """A file of the page: markup, script or style."""
    return resources.files("egolive.demo").joinpath("static", name).read_text(encoding="utf-8")
