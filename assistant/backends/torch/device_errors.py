"""Turns errors of the device (out of memory, CUDA failures) into an `EngineError` of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from egolive.streaming.errors import EngineError

__all__ = ["as_engine_errors"]

_NO_MEMORY = "memory ran out while {}: use fewer or smaller pictures, or a smaller model"


@contextmanager
def as_engine_errors(doing: str) -> Iterator[None]:
    """Raise failures of the device as `EngineError`.

    Args:
        doing: What is being done, as it stands in "the device failed while ...".
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineError(
            f"the device ran out of memory while {doing}: use fewer or smaller pictures, or a smaller model"
        ) from error
    except MemoryError as error:
        raise EngineError(_NO_MEMORY.format(doing)) from error
    except torch.AcceleratorError as error:
        raise EngineError(f"the device failed while {doing}: {' '.join(str(error).split())[:200]}") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise EngineError(_NO_MEMORY.format(doing)) from error
