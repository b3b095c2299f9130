"""How much a picture resembles those that a model was trained on, by the features of its vision tower.

A table beside the weights holds features of training pictures; `egolive train familiarity` writes it. Each
visual token of a picture is compared with those in the table: whitened along the directions in which tokens
vary most, by the cosine of the angle to the nearest one (nearest neighbours: Sun et al. 2022,
https://arxiv.org/abs/2204.06507). The mean of 1 - cosine over a picture's tokens is its distance. How strong
features are says nothing here: real scenes give tokens as strong as simulated ones, in other directions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from egolive.streaming.durable_files import replace_file
from egolive.streaming.errors import EngineError

__all__ = ["FAMILIARITY_FILE", "Familiarity"]

FAMILIARITY_FILE = "familiarity.safetensors"
"""Name of the table's file in the folder of a checkpoint or an engine."""
_FORMAT = 1
_SHAPES = {"mean": 1, "axes": 2, "known": 2, "limit": 1, "scale": 1}
"""Tensors of the file, with their dimensions."""
_STEPS = 127
"""Of a known token's largest number, which is kept in 8 bits; its length does not matter."""


class Familiarity:
    """The table of one model; pictures of the size that it was made for get a score, others none."""

    def __init__(
        self, tensors: Mapping[str, torch.Tensor], *, height: int, width: int, made: str = ""
    ) -> None:
        """Take over a table.

        Args:
            tensors: `mean` (n) of visual tokens; `axes` (k, n), along which they are whitened; `known`
                (m, k), whitened tokens of training pictures, of any length; `limit` (1), the distance of the
                last picture that counts as familiar; `scale` (1), by how much more a picture is clearly
                strange.
            height: Of the pictures as the model sees them, pixels.
            width: The same.
            made: In words, of which pictures.
        """
        self.height, self.width, self.made = height, width, made
        self.tensors = {name: tensors[name].to("cpu", torch.float32) for name in _SHAPES}
        self._known = torch.nn.functional.normalize(self.tensors["known"]).T.contiguous()
        self._axes = self.tensors["axes"].T.contiguous()
        self._limit, self._scale = float(self.tensors["limit"][0]), float(self.tensors["scale"][0])

    @classmethod
    def from_folder(cls, folder: Path) -> Familiarity | None:
        """The table of a checkpoint or engine; None where it has none.

        Raises:
            EngineError: The table is damaged.
        """
        path = folder / FAMILIARITY_FILE
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                told = json.loads((file.metadata() or {})["table"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            height, width, made = int(told["height"]), int(told["width"]), str(told["made"])
            if told["format"] != _FORMAT:
                raise ValueError(f"format {told['format']}")
            _check(tensors)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise EngineError(
                f"{path} is no table of familiarity ({' '.join(str(error).split())[:100]}); write it again "
                f"with egolive train familiarity, or remove it"
            ) from error
        return cls(tensors, height=height, width=width, made=made)

    def save(self, folder: Path) -> Path:
        """Write the table into a folder: known tokens in 8 bits, mean and axes in 16."""
        known = self.tensors["known"]
        largest = known.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)
        tensors = {
            "mean": self.tensors["mean"].half(),
            "axes": self.tensors["axes"].half(),
            "known": (known / largest * _STEPS).round().to(torch.int8),
            "limit": self.tensors["limit"],
            "scale": self.tensors["scale"],
        }
        about = {"format": _FORMAT, "height": self.height, "width": self.width, "made": self.made}
        path = folder / FAMILIARITY_FILE
        # One entry: safetensors writes several in no order, and the same table shall be the same file.
        metadata = {"table": json.dumps(about, sort_keys=True)}
        replace_file(path, save({name: one.contiguous() for name, one in tensors.items()}, metadata))
        return path

    def fits(self, height: int, width: int) -> bool:
        """Whether the table is for pictures of this size."""
        return (height, width) == (self.height, self.width)

    def whitened(self, tokens: torch.Tensor) -> torch.Tensor:
        """Visual tokens (n, width) along the table's axes, (n, k) float32 on the CPU."""
        return (tokens.float().cpu() - self.tensors["mean"]) @ self._axes

    def distance(self, tokens: torch.Tensor) -> float:
        """How far a picture is from the training pictures: 0, the same tokens, to 2.

        Args:
            tokens: (n, width) visual tokens of one picture or slice, as the tower gives them.
        """
        units = torch.nn.functional.normalize(self.whitened(tokens))
        return 1 - float((units @ self._known).amax(dim=1).mean())

    def score(self, tokens: torch.Tensor) -> float:
        """How familiar a picture is, in [0, 1]: above 0.5 where it is not beyond the limit."""
        return 1 / (1 + math.exp(min((self.distance(tokens) - self._limit) / self._scale, 500.0)))


def _check(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse what no table can hold.

    Raises:
        ValueError: In words.
    """
    for name, dimensions in _SHAPES.items():
        if name not in tensors or tensors[name].dim() != dimensions:
            raise ValueError(f"{name} is missing or has another shape")
        if not tensors[name].float().isfinite().all():
            raise ValueError(f"{name} has numbers that are none")
    (size,), (count, across) = tensors["mean"].shape, tensors["axes"].shape
    known, wide = tensors["known"].shape
    alone = (tensors["limit"].numel(), tensors["scale"].numel())
    if across != size or wide != count or alone != (1, 1) or min(size, count, known) < 1:
        raise ValueError("its tensors do not fit each other")
    if float(tensors["scale"][0]) <= 0:
        raise ValueError("the scale is not above 0")
