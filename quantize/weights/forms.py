"""Forms in which the weight of a linear layer is stored, each read a few rows at a time.

A weight is (N, K): N outputs, K inputs, as torch has it. Its rows are independent of each other in every
form, so that a large layer never has to be in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Blocks", "DenseWeight", "Weight", "chunks_of_rows", "unpack"]

_CHUNK = 2**25
"""Numbers of a weight that are worked on at once: 128 MiB in fp32."""


class Weight(Protocol):
    """A weight of N rows and K columns."""

    @property
    def rows(self) -> int:
        """N."""
        ...

    @property
    def columns(self) -> int:
        """K."""
        ...

    def values(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """(rows, K) of its rows from `start` to `stop`, in fp32."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class DenseWeight:
    """A weight as a tensor, which may be mapped from a file."""

    tensor: torch.Tensor
    """(N, K)."""
    dtype: torch.dtype = torch.float32
    """To which its numbers are rounded."""

    @property
    def rows(self) -> int:
        """N."""
        return len(self.tensor)

    @property
    def columns(self) -> int:
        """K."""
        return int(self.tensor.shape[1])

    def values(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """See `Weight`."""
        return self.tensor[start:stop].to(self.dtype).float()

    def unrounded(self) -> DenseWeight:
        """As it is stored: what is rounded to few bits is not rounded to bf16 before."""
        return DenseWeight(self.tensor)


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """A weight in whole numbers of 4 or 8 bits; a block of them along a row shares a scale.

    The layout is that of ONNX Runtime's MatMulNBits, and for int4 that of compressed-tensors' `weight_packed`
    seen as bytes. The arrays may be mapped from a file.
    """

    packed: NDArray[np.uint8]
    """(N, blocks, bytes of a block); of int4 the first number stands in the low half of its byte."""
    scales: NDArray[np.float32]
    """(N, blocks)."""
    zeros: NDArray[np.uint8] | None
    """(N, bytes of all zero points of a row); None where zero is in the middle, 8 or 128."""
    bits: int
    block: int
    columns: int
    """K; blocks may be longer."""

    @property
    def rows(self) -> int:
        """N."""
        return len(self.packed)

    def part(self, start: int, stop: int) -> Blocks:
        """Some of its rows."""
        zeros = None if self.zeros is None else self.zeros[start:stop]
        return replace(self, packed=self.packed[start:stop], scales=self.scales[start:stop], zeros=zeros)

    def without_numbers(self) -> Blocks:
        """Its scales and zero points alone."""
        return replace(self, packed=self.packed[:0])

    def values(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """See `Weight`."""
        part = slice(start, stop)
        numbers = unpack(self.packed[part], self.bits).astype(np.float32)
        if self.zeros is None:
            numbers -= 2 ** (self.bits - 1)
        else:
            blocks = self.packed.shape[1]
            numbers -= unpack(self.zeros[part], self.bits)[:, :blocks, None]
        numbers *= self.scales[part][..., None]
        return torch.from_numpy(numbers.reshape(len(numbers), -1)[:, : self.columns])


def unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Numbers of the last axis, the first one in the low half of its byte."""
    if bits == 8:
        return packed
    found = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), dtype=np.uint8)
    found[..., ::2] = packed & 15
    found[..., 1::2] = packed >> 4
    return found


def chunks_of_rows(weight: Weight) -> Iterator[tuple[int, int]]:
    """Ranges of rows of a weight that are worked on one after the other."""
    step = max(1, _CHUNK // max(1, weight.columns))
    for start in range(0, weight.rows, step):
        yield start, min(start + step, weight.rows)
