"""M-RoPE position ids by the rule of transformers 4.x, with which EgoThinker was trained.

transformers 4.51 to 4.57 let the text after a picture or video go on at the largest position so far plus
one, over all three axes. transformers 5 looks at height and width alone: from a certain length on, the
words after a video land inside the video's own time (beyond 16 slices at 448x252). Here is the 4.x rule,
once as plain arithmetic for our engines and once as an override, so that `generate`, trainers and every
other user of the stock class agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.models.qwen2_vl import modeling_qwen2_vl

__all__ = ["Part", "get_rope_index", "install_rope_override", "rope_positions"]

Part = int | tuple[int, int, int]
"""A run of so many text tokens, or a block of visual tokens: slices, rows and columns after merging."""


def rope_positions(parts: Sequence[Part], start: int = 0) -> NDArray[np.int64]:
    """Positions of a sequence of text and visual blocks.

    Text counts up on all three axes together. A block starts one past everything before it and counts its
    slices, rows and columns from there; what follows starts one past the block's largest position.

    Args:
        parts: The sequence, in order.
        start: Position of its first token.

    Returns:
        (3, n) int64: the temporal, height and width position of each token. The next token after the
        sequence stands at their maximum plus one.
    """
    pieces = [np.empty((3, 0), dtype=np.int64)]
    for part in parts:
        if isinstance(part, int):
            pieces.append(np.tile(np.arange(start, start + part), (3, 1)))
            start += part
        else:
            pieces.append(np.indices(part).reshape(3, -1) + start)
            start += max(part)
    return np.concatenate(pieces, axis=1)


class _Config(Protocol):
    @property
    def image_token_id(self) -> int: ...

    @property
    def video_token_id(self) -> int: ...

    @property
    def vision_config(self) -> _VisionConfig: ...


class _VisionConfig(Protocol):
    @property
    def spatial_merge_size(self) -> int: ...


class _Model(Protocol):
    @property
    def config(self) -> _Config: ...


def get_rope_index(
    self: _Model,
    input_ids: torch.Tensor,
    mm_token_type_ids: torch.Tensor | None = None,
    image_grid_thw: torch.Tensor | None = None,
    video_grid_thw: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stands in for `Qwen2VLModel.get_rope_index` of transformers 5, with the 4.x rule.

    Args:
        self: The model, for its configuration.
        input_ids: (batch, length) token ids.
        mm_token_type_ids: (batch, length) 0 text, 1 image, 2 video; read off the token ids where it is
            missing.
        image_grid_thw: (images, 3) patch grids, in the order of the batch.
        video_grid_thw: (videos, 3) patch grids, in the order of the batch.
        attention_mask: (batch, length), 0 where the sequence is padded; padding gets position 0.

    Returns:
        Positions (3, batch, length), and (batch, 1) what to add to a token's index in its sequence, padding
        not counted, to get the position of a token that is generated.
    """
    if mm_token_type_ids is None:
        is_image = input_ids == self.config.image_token_id
        mm_token_type_ids = is_image.long() + 2 * (input_ids == self.config.video_token_id).long()
    merge = self.config.vision_config.spatial_merge_size
    grids = {1: _merged_grids(image_grid_thw, merge), 2: _merged_grids(video_grid_thw, merge)}
    positions = torch.zeros(3, *input_ids.shape, dtype=torch.long, device=input_ids.device)
    deltas = []
    for row in range(input_ids.shape[0]):
        kept = torch.ones_like(input_ids[row]) if attention_mask is None else attention_mask[row]
        kept = kept.bool().to(input_ids.device)
        parts = list(_parts(mm_token_type_ids[row][kept].tolist(), grids))
        found = torch.from_numpy(rope_positions(parts)).to(input_ids.device)
        positions[:, row, kept] = found
        end = int(found.max()) + 1 if found.numel() else 0
        deltas.append(end - found.shape[1])
    return positions, torch.tensor(deltas, device=input_ids.device).unsqueeze(1)


def _merged_grids(grids: torch.Tensor | None, merge: int) -> Iterator[tuple[int, int, int]]:
    """Patch grids as grids of visual tokens."""
    for slices, rows, columns in [] if grids is None else grids.tolist():
        yield slices, rows // merge, columns // merge


def _parts(types: list[int], grids: dict[int, Iterator[tuple[int, int, int]]]) -> Iterator[Part]:
    """Cut one row's token types into runs of text and blocks; a block is as long as its grid says."""
    at = 0
    while at < len(types):
        end = at
        while end < len(types) and types[end] == 0:
            end += 1
        if end > at:
            yield end - at
            at = end
            continue
        grid = next(grids[types[at]], None)
        if grid is None:
            raise ValueError("the sequence holds more pictures or videos than grids were given")
        slices, rows, columns = grid
        yield grid
        at += slices * rows * columns
    if at > len(types):
        raise ValueError("a picture or video has fewer tokens in the sequence than its grid says")


def install_rope_override() -> None:
    """Put the 4.x rule into transformers' Qwen2-VL, for this process. Calling it again changes nothing."""
    modeling_qwen2_vl.Qwen2VLModel.get_rope_index = get_rope_index
