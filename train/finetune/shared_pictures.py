"""Pictures that occur more than once in a batch go through the vision tower once.

A group of GRPO holds G copies of each picture, and a trainer encodes all of them at every pass. The tower
looks at one slice at a time, so a copy's tokens are those of the original, and its gradient flows back
through them: only time and memory change.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

__all__ = ["encode_copies_once"]


def encode_copies_once(model: Qwen2VLForConditionalGeneration) -> None:
    """Change the forward pass of the model's tower in place; every other use of it stays as it was."""
    visual = model.model.visual
    forward = visual.forward
    merge = visual.spatial_merge_size**2

    @functools.wraps(forward)
    def shared(hidden_states: Tensor, grid_thw: Tensor, **options: object) -> BaseModelOutputWithPooling:
        images = torch.split(hidden_states, grid_thw.prod(-1).tolist())
        first, place = _originals(images, grid_thw)
        if len(first) == len(images):
            found: BaseModelOutputWithPooling = forward(hidden_states, grid_thw=grid_thw, **options)
            return found
        patches = torch.cat([images[number] for number in first])
        encoded = forward(patches, grid_thw=grid_thw[first], **options)
        lengths = grid_thw[first].prod(-1)
        tokens = torch.split(encoded.pooler_output, (lengths // merge).tolist())
        states = torch.split(encoded.last_hidden_state, lengths.tolist())
        return BaseModelOutputWithPooling(
            last_hidden_state=torch.cat([states[number] for number in place]),
            pooler_output=torch.cat([tokens[number] for number in place]),
        )

    visual.forward = shared


def _originals(images: tuple[Tensor, ...], grids: Tensor) -> tuple[list[int], list[int]]:
    """The images that are no copies of earlier ones, and for each image which of those it equals."""
    first: list[int] = []
    place: list[int] = []
    for number, image in enumerate(images):
        same = (
            at
            for at, other in enumerate(first)
            if torch.equal(grids[number], grids[other]) and torch.equal(image, images[other])
        )
        at = next(same, len(first))
        if at == len(first):
            first.append(number)
        place.append(at)
    return first, place
