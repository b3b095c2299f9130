"""How hypothesis looks for examples: the same few in `make test`, many new ones in `make robustness`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

__all__ = ["few", "register_profiles"]

_MANY = 1000
"""Examples of each test in `make robustness`."""


def register_profiles() -> None:
    """Make both profiles known, and take the first; `--hypothesis-profile=robustness` takes the other.

    How long an example takes is the machine's business, so neither has a deadline.
    """
    same = settings(
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    settings.register_profile("same", same)
    settings.register_profile("robustness", same, derandomize=False, max_examples=_MANY, print_blob=True)
    settings.load_profile("same")


def few(count: int) -> settings:
    """For tests whose examples are slow: so many in `make test`, ten times as many in `make robustness`."""
    many = settings.get_current_profile_name() == "robustness"
    return settings(max_examples=10 * count if many else count)
