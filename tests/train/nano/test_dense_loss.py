"""The dense loss knows where things are, and its batches tell the truth about what they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from examples import few
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from egolive.train.data.simulated_data import Clip, SimulatedData
from egolive.train.nano.dense_loss import (
    DenseHeads,
    DenseTarget,
    box_iou,
    cell_centres,
    decode_boxes,
    dense_loss,
    dense_target,
)
from egolive.train.nano.nano_model import COLUMNS, HEIGHT, ROWS, WIDTH
from egolive.train.nano.tower_training import CLASSES, HELD, STEPS, TowerBatches, class_boxes
from egolive.train.simulator.episode import Episode, FrameTruth, Step

LETTERS = ("a", "b", "c")
Rect = tuple[float, float, float, float]
Heads = tuple[Tensor, Tensor, Tensor]


def target_of(pictures: list[dict[str, Rect]], steps: list[int] | None = None) -> DenseTarget:
    inside, boxes = zip(*(dense_target(one, LETTERS, ROWS, COLUMNS) for one in pictures), strict=True)
    step = torch.tensor(steps or [-100] * len(pictures))
    return DenseTarget(torch.from_numpy(np.stack(inside)), torch.from_numpy(np.stack(boxes)), step)


def perfect_heads(target: DenseTarget) -> Heads:
    """Heads that say the truth in every cell that belongs to a box, and nonsense in all others."""
    centre = torch.from_numpy(cell_centres(ROWS, COLUMNS))[None, :, None]
    boxes = target.boxes[:, None]
    edges = torch.cat([centre - boxes[..., :2], boxes[..., 2:] - centre], -1)
    edges = torch.where(target.inside[..., None] > 0, edges, torch.full_like(edges, 9.0))
    return target.inside * 20 - 10, edges, torch.zeros(len(boxes), 4)


sides = st.tuples(st.floats(0, 0.97), st.floats(0, 0.97), st.floats(0.004, 1), st.floats(0.004, 1))
rects = sides.map(lambda s: (s[0], s[1], min(1.0, s[0] + s[2]), min(1.0, s[1] + s[3])))


@few(50)
@given(st.lists(st.dictionaries(st.sampled_from(LETTERS), rects), min_size=1, max_size=3))
def test_heads_that_say_the_truth_give_back_every_box_and_lose_nothing(
    pictures: list[dict[str, Rect]],
) -> None:
    target = target_of(pictures)
    heads = perfect_heads(target)
    boxes, score = decode_boxes(heads, ROWS, COLUMNS)
    for number, picture in enumerate(pictures):
        for place, name in enumerate(LETTERS):
            assert (score[number, place] > 0.5) == (name in picture)
            if name in picture:
                assert boxes[number, place].tolist() == pytest.approx(picture[name], abs=1e-5)
    assert all(float(value) < 1e-3 for value in dense_loss(heads, target, ROWS, COLUMNS).values())


@pytest.mark.parametrize("rect", [(0.51, 0.31, 0.52, 0.32), (0.995, 0.99, 1.0, 1.0), (0.0, 0.0, 0.01, 0.01)])
def test_a_thing_smaller_than_a_cell_has_the_cell_that_it_lies_in(rect: Rect) -> None:
    inside, _ = dense_target({"b": rect}, LETTERS, ROWS, COLUMNS)
    assert inside.sum() == 1
    ((cell, place),) = np.argwhere(inside)
    x, y = cell_centres(ROWS, COLUMNS)[cell]
    assert LETTERS[place] == "b"
    assert abs(x - (rect[0] + rect[2]) / 2) <= 0.5 / COLUMNS
    assert abs(y - (rect[1] + rect[3]) / 2) <= 0.5 / ROWS


def test_a_wrong_box_and_a_missed_thing_cost() -> None:
    target = target_of([{"a": (0.1, 0.1, 0.6, 0.6)}])
    inside, edges, step = perfect_heads(target)
    moved = dense_loss((inside, edges + 0.1, step), target, ROWS, COLUMNS)
    missed = dense_loss((torch.full_like(inside, -10), edges, step), target, ROWS, COLUMNS)
    assert float(moved["overlap"]) > 0.1
    assert float(moved["edges"]) > 0.1
    assert float(missed["inside"]) > 1


def test_pictures_without_things_and_steps_give_a_finite_loss_with_a_gradient() -> None:
    target = target_of([{}, {}])
    heads = DenseHeads(16, len(LETTERS), 4)
    total = torch.stack(
        list(dense_loss(heads(torch.randn(2, ROWS * COLUMNS, 16)), target, ROWS, COLUMNS).values())
    ).sum()
    torch.autograd.backward(total)
    assert torch.isfinite(total)
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in heads.parameters())


def test_heads_learn_a_handful_of_pictures_by_heart() -> None:
    torch.manual_seed(0)
    pictures: list[dict[str, Rect]] = [
        {"a": (0.1, 0.2, 0.4, 0.7), "b": (0.6, 0.1, 0.9, 0.5)},
        {"a": (0.5, 0.5, 0.95, 0.9)},
        {"b": (0.05, 0.6, 0.3, 0.95), "c": (0.4, 0.3, 0.65, 0.6)},
    ]
    target = target_of(pictures, steps=[0, 3, -100])
    tokens = torch.randn(len(pictures), ROWS * COLUMNS, 192)
    heads = DenseHeads(192, len(LETTERS), 4)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=1e-2)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=300)
    losses = []
    for _ in range(300):
        total = torch.stack(list(dense_loss(heads(tokens), target, ROWS, COLUMNS).values())).sum()
        losses.append(total.item())
        optimizer.zero_grad()
        torch.autograd.backward(total)
        optimizer.step()
        slower.step()
    assert losses[-1] < 0.1 * losses[0]
    said = heads(tokens)
    boxes, score = decode_boxes(said, ROWS, COLUMNS)
    present = target.inside.any(1)
    assert ((score > 0.5) == present).all()
    assert box_iou(boxes, target.boxes)[present].min() > 0.8
    assert said[2].argmax(-1)[:2].tolist() == [0, 3]


LEFT, RIGHT, CUP = (28.0, 63.0, 168.0, 189.0), (280.0, 126.0, 420.0, 252.0), (224.0, 0.0, 280.0, 63.0)
"""Pixels of a picture of 448 x 252."""
RED, GREEN, BLUE = (230, 20, 20), (20, 230, 20), (20, 20, 230)


def clip_of(folder: Path, pictures: NDArray[np.uint8], truths: list[FrameTruth]) -> SimulatedData:
    path = folder / f"00000.{WIDTH}x{HEIGHT}.npy"
    np.save(path, pictures)
    step = Step(STEPS[2], "", "", "", 0.0, 10.0)
    episode = Episode(0, "train", 0, "make tea", 448, 252, 2.0, (step,), 10.0, {})
    return SimulatedData((Clip(episode, truths, path),))


def painted(*things: tuple[Rect, tuple[int, int, int]]) -> NDArray[np.uint8]:
    """A picture as training reads it, from boxes in pixels of the episode."""
    picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for (x1, y1, x2, y2), colour in things:
        columns = slice(round(x1 / 448 * WIDTH), round(x2 / 448 * WIDTH))
        picture[round(y1 / 252 * HEIGHT) : round(y2 / 252 * HEIGHT), columns] = colour
    return picture


def cell_colours(patches: Tensor) -> NDArray[np.float32]:
    """Mean colour of each cell in each frame, (cells, 3, 2), in the order of the merged tokens."""
    parts = patches.numpy().reshape(ROWS * COLUMNS, 4, 3, 2, 14 * 14)
    means: NDArray[np.float32] = parts.mean((1, 4))
    return means


def test_mirrored_pictures_keep_names_boxes_and_pixels_together(tmp_path: Path) -> None:
    held = {"left hand": "glass", "right hand": None}
    truth = FrameTruth(0.0, {"left hand": LEFT, "right hand": RIGHT, "glass": CUP}, held, {}, 0)
    picture = painted((LEFT, RED), (RIGHT, GREEN), (CUP, BLUE))
    data = clip_of(tmp_path, np.stack([picture] * 4), [truth] * 4)
    batch = TowerBatches(data, batch=24, seed=0)[0]
    place = {name: CLASSES.index(name) for name in (*CLASSES[:2], *HELD, "glass")}
    mirrored = 0
    for patches, inside, boxes in zip(batch["patches"], batch["inside"], batch["boxes"], strict=True):
        colours = cell_colours(patches)[..., 1]
        flipped = bool(boxes[place["left hand"], 1] > 0.4)  # the left hand lies higher
        mirrored += flipped
        # A mirrored left hand is a right hand: red belongs to whichever of the two it has become.
        ours, theirs = ("right hand", "left hand") if flipped else ("left hand", "right hand")
        for name, channel in ((ours, 0), (theirs, 1), ("glass", 2)):
            cells = inside[:, place[name]] > 0
            assert cells.any()
            assert (colours[cells.numpy()].argmax(1) == channel).all(), name
        assert bool(inside[:, place[f"object in the {ours}"]].any())
        assert not bool(inside[:, place[f"object in the {theirs}"]].any())
        x1, y1, x2, y2 = LEFT[0] / 448, LEFT[1] / 252, LEFT[2] / 448, LEFT[3] / 252
        expected = (1 - x2, y1, 1 - x1, y2) if flipped else (x1, y1, x2, y2)
        assert boxes[place[ours]].tolist() == pytest.approx(expected, abs=1e-6)
    assert 0 < mirrored < len(batch["patches"])
    assert batch["step"].tolist() == [2] * len(batch["step"])


def test_a_slice_is_labelled_with_its_newer_frame(tmp_path: Path) -> None:
    older = FrameTruth(0.0, {"left hand": LEFT}, {"left hand": None, "right hand": None}, {}, 0)
    newer = FrameTruth(0.5, {"left hand": RIGHT}, {"left hand": None, "right hand": None}, {}, -1)
    pictures = np.stack([painted((LEFT, RED)), painted((RIGHT, RED))])
    batch = TowerBatches(clip_of(tmp_path, pictures, [older, newer]), batch=24, seed=0, augment=False)[0]
    pairs = 0
    for patches, inside, step in zip(batch["patches"], batch["inside"], batch["step"], strict=True):
        first, second = np.moveaxis(cell_colours(patches)[:, 0], -1, 0)
        pairs += bool((first != second).any())
        cells = inside[:, 0].numpy() > 0
        assert second[cells].min() > second[~cells].max()
        assert int(step) == (2 if bool(cells[ROWS // 2 * COLUMNS + 1]) else -100)
    assert 0 < pairs < len(batch["patches"])


def test_a_batch_is_a_pure_function_of_its_number(tmp_path: Path) -> None:
    truth = FrameTruth(0.0, {"left hand": LEFT}, {"left hand": None, "right hand": None}, {}, 0)
    data = clip_of(tmp_path, np.stack([painted((LEFT, RED))] * 6), [truth] * 6)
    batches = TowerBatches(data, batch=4, seed=3)
    assert all((value == batches[7][name]).all() for name, value in batches[7].items())
    assert not (batches[7]["patches"] == batches[8]["patches"]).all()
    assert not (batches[7]["patches"] == TowerBatches(data, batch=4, seed=4)[7]["patches"]).all()


def test_a_held_thing_that_cannot_be_seen_is_no_held_thing(tmp_path: Path) -> None:
    truth = FrameTruth(0.0, {"left hand": LEFT}, {"left hand": "glass", "right hand": None}, {}, 0)
    (clip,) = clip_of(tmp_path, np.stack([painted()]), [truth]).clips
    assert set(class_boxes(clip, 0)) == {"left hand"}
