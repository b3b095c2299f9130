"""The auxiliary losses inside the text part."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from egolive.train.nano.answer_batches import remaining_coordinates
from egolive.train.nano.box_heads import CELL_LAYER, WORD_LAYER, BoxHeads, box_head_loss

BOX = torch.tensor([0.1, 0.2, 0.5, 0.8])


def target(there: float) -> dict[str, Tensor]:
    """Two visual tokens and two words; the second word starts an answer, one class covers the first cell."""
    return {
        "word_there": torch.tensor([[-1.0, -1.0, -1.0, there]]),
        "word_boxes": torch.full((1, 4, 4), torch.nan).index_fill_(1, torch.tensor([3]), 1.0) * BOX,
        "inside": torch.tensor([[[1.0], [0.0]]]),
        "rects": BOX[None, None],
    }


def knowing_heads() -> BoxHeads:
    """Heads that say the truth whatever they read."""
    heads = BoxHeads(8, 1)
    for layer in (heads.inside, heads.boxes, heads.word):
        torch.nn.init.zeros_(layer.weight)
    heads.boxes.bias.data = BOX.clone()
    heads.word.bias.data = torch.cat([BOX, torch.tensor([20.0])])
    return heads


HIDDEN = [torch.zeros(1, 4, 8) for _ in range(5)]
VISUAL = torch.tensor([[True, True, False, False]])


def test_heads_that_know_the_boxes_pay_nothing_for_them() -> None:
    parts = box_head_loss(knowing_heads(), HIDDEN, VISUAL, target(1.0))
    for name in ("read_word", "read_cells", "read_there"):
        assert parts[name].item() < 1e-5, name


def test_a_thing_that_is_not_there_is_asked_for_its_absence_alone() -> None:
    parts = box_head_loss(knowing_heads(), HIDDEN, VISUAL, target(0.0))
    assert parts["read_word"].item() == 0.0
    assert parts["read_there"].item() > 1


def test_what_is_left_of_a_box_is_read_at_each_of_its_words() -> None:
    rest = target(1.0)
    rest["word_boxes"][0, 2] = torch.tensor([torch.nan, torch.nan, 0.5, 0.8])
    assert box_head_loss(knowing_heads(), HIDDEN, VISUAL, rest)["read_rest"].item() < 1e-5
    rest["word_boxes"][0, 2, 3] = 0.3
    assert box_head_loss(knowing_heads(), HIDDEN, VISUAL, rest)["read_rest"].item() == pytest.approx(4 * 0.25)


def test_a_coordinate_counts_as_unwritten_until_its_first_digit_is_there() -> None:
    answer = "<(12,345),(6,78)>"
    left = remaining_coordinates(
        (0.1, 0.2, 0.3, 0.4), np.array([character.isdigit() for character in answer])
    )
    firsts = [answer.index(number) for number in ("12", "345", "6", "78")]
    for place in range(len(answer)):
        assert [not math.isnan(value) for value in left[place]] == [place <= first for first in firsts]


def test_a_window_adds_nothing() -> None:
    nothing = {**target(-1.0), "inside": torch.zeros(0), "rects": torch.zeros(0)}
    assert box_head_loss(knowing_heads(), HIDDEN, VISUAL, nothing) == {}


def test_words_are_read_after_their_layer_and_cells_after_theirs() -> None:
    torch.manual_seed(0)
    heads = BoxHeads(8, 1)
    before = box_head_loss(heads, HIDDEN, VISUAL, target(1.0))
    for layer, changed in ((CELL_LAYER, "read_cells"), (WORD_LAYER, "read_word")):
        hidden = [state.clone() for state in HIDDEN]
        hidden[layer] = torch.randn(1, 4, 8)
        after = box_head_loss(heads, hidden, VISUAL, target(1.0))
        assert after[changed].item() != before[changed].item()
        other = "read_word" if changed == "read_cells" else "read_cells"
        assert after[other].item() == before[other].item()
