"""Smaller pictures for a model that takes pictures of any size."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from egolive.assistant.prompts.prompts import fit_size
from egolive.assistant.schema.coordinates import Size
from egolive.assistant.schema.profiles import Profile

__all__ = ["seen_smaller"]

_LEAST = 4 * 28 * 28
"""Pixels: four visual tokens."""


@lru_cache(maxsize=32)
def seen_smaller(profile: Profile, share: float, source_size: Size) -> Profile:
    """The profile with so much smaller a picture; the same where its size is fixed.

    Args:
        profile: Of the model.
        share: Of the pixels at which it would see pictures of this size.
        source_size: Width and height of the source's pictures.
    """
    if share == 1 or profile.picture is not None:
        return profile
    width, height = source_size
    image, video = (
        _limits(budget, share, height, width) for budget in (profile.image_pixels, profile.video_pixels)
    )
    return replace(profile, image_pixels=image, video_pixels=video)


def _limits(budget: tuple[int, int], share: float, height: int, width: int) -> tuple[int, int]:
    tall, wide = fit_size(height, width, *budget)
    most = max(round(tall * wide * share), _LEAST)
    return min(budget[0], most), most
