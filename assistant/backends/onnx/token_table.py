"""The token embeddings of an exported engine, outside its graph: a row is read from the disk for each token.

They stand in a file of their own. Where a model's last layer is the same table, they are read from the
weights of that layer, at whatever precision they are stored there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from egolive.assistant.model.engine_folder import EMBEDDINGS_FILE, EngineCard, SharedTable, listed_file
from egolive.streaming.errors import EngineError, one_line

__all__ = ["TokenTable", "shared_table", "stored_table", "token_table"]


class TokenTable(Protocol):
    """Token embeddings."""

    def rows(self, tokens: Sequence[int]) -> torch.Tensor:
        """(n, width) embeddings of token ids, on the host."""
        ...


class _StoredTable:
    """A table in a file of its own, mapped."""

    def __init__(self, table: torch.Tensor) -> None:
        self._table = table

    def rows(self, tokens: Sequence[int]) -> torch.Tensor:
        """See `TokenTable`."""
        return self._table[torch.tensor(tokens, dtype=torch.long)]


class _FloatRows:
    """Rows of the last layer in fp32, or in bf16 as pairs of bytes."""

    def __init__(self, rows: NDArray[np.generic], dtype: torch.dtype) -> None:
        self._rows = rows
        self._dtype = dtype

    def rows(self, tokens: Sequence[int]) -> torch.Tensor:
        """See `TokenTable`."""
        return torch.from_numpy(np.array(self._rows[list(tokens)])).view(self._dtype)


class _BlockRows:
    """Rows of the last layer in whole numbers of 4 or 8 bits, symmetric, with scales."""

    def __init__(self, packed: NDArray[np.uint8], scales: NDArray[np.generic], shared: SharedTable) -> None:
        self._packed = packed
        self._scales = scales
        self._shared = shared

    def rows(self, tokens: Sequence[int]) -> torch.Tensor:
        """See `TokenTable`."""
        shared = self._shared
        numbers: NDArray[np.uint8] = np.array(self._packed[list(tokens)])
        if shared.bits == 4:
            numbers = np.stack([numbers & 15, numbers >> 4], axis=-1).reshape(len(numbers), -1)
        blocks = numbers.reshape(len(numbers), -1, shared.block).astype(np.float32)
        blocks -= 2 ** (shared.bits - 1)
        scales = torch.from_numpy(np.array(self._scales[list(tokens)]))
        if shared.scales_dtype == "bf16":
            scales = scales.view(torch.bfloat16)
        found = torch.from_numpy(blocks) * scales.float()[..., None]
        return found.reshape(len(numbers), -1)[:, : shared.width]


def token_table(folder: Path, card: EngineCard) -> TokenTable:
    """The embeddings of an engine folder whose files have been verified.

    Raises:
        EngineError: They are not where the card says.
    """
    if card.embeddings is None:
        return stored_table(listed_file(folder, card, EMBEDDINGS_FILE))
    return shared_table(listed_file(folder, card, card.embeddings.file), card.embeddings)


def stored_table(path: Path) -> TokenTable:
    """Embeddings in a file of their own.

    Raises:
        EngineError: It cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return _StoredTable(file.get_tensor("embeddings"))
    except (SafetensorError, OSError) as error:
        raise EngineError(f"{path} cannot be read ({one_line(error)}); export the engine again") from error


def shared_table(path: Path, shared: SharedTable) -> TokenTable:
    """Embeddings that are the weights of the last layer.

    Raises:
        EngineError: They do not fit into the file.
    """

    def mapped(offset: int, dtype: type[np.generic], columns: int) -> NDArray[np.generic]:
        shape = (shared.rows, columns)
        if offset + shared.rows * columns * np.dtype(dtype).itemsize > path.stat().st_size:
            raise EngineError(f"{path} is too short for its embeddings; export the engine again")
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)

    if shared.bits == 32:
        return _FloatRows(mapped(shared.offset, np.float32, shared.width), torch.float32)
    if shared.bits == 16:
        return _FloatRows(mapped(shared.offset, np.int16, shared.width), torch.bfloat16)
    if shared.bits not in (4, 8):
        raise EngineError(f"{path} has embeddings of {shared.bits} bits, which are not read; export it again")
    blocks = -(-shared.width // shared.block)
    packed = mapped(shared.offset, np.uint8, blocks * shared.block * shared.bits // 8)
    kind = np.float32 if shared.scales_dtype == "fp32" else np.int16
    return _BlockRows(packed.view(np.uint8), mapped(shared.scales_offset, kind, blocks), shared)
