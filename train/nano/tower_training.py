"""Phase one of nano's SFT: the vision tower is trained on its own, with the dense loss.

Half of the rows are single pictures (a frame repeated, as Qwen2-VL does with images), half are slices of two
frames with the labels of the newer one. Pictures are flipped at random, which swaps left and right hand.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Qwen2VLForConditionalGeneration

from egolive.assistant.model.preprocess import Preprocessor
from egolive.train.common.loop import Tensors
from egolive.train.data.simulated_data import Clip, SimulatedData
from egolive.train.nano.dense_loss import (
    DenseHeads,
    DenseTarget,
    box_iou,
    decode_boxes,
    dense_loss,
    dense_target,
)
from egolive.train.nano.nano_model import COLUMNS, HEIGHT, ROWS, WIDTH
from egolive.train.simulator.planning.goals import GOALS, OBJECT_KINDS, goal_steps

__all__ = ["CLASSES", "STEPS", "Rect", "Tower", "TowerBatches", "class_boxes", "tower_check", "tower_loss"]

HELD = ("object in the left hand", "object in the right hand")
CLASSES = ("left hand", "right hand", *HELD, *OBJECT_KINDS)
STEPS = tuple(sorted({step for goal in GOALS for step in goal_steps(goal)}))
MIRRORED = {"left hand": "right hand", "right hand": "left hand", HELD[0]: HELD[1], HELD[1]: HELD[0]}

Rect = tuple[float, float, float, float]


class Tower(nn.Module):
    """The model's vision tower with the dense heads; the heads are dropped after training."""

    def __init__(self, model: Qwen2VLForConditionalGeneration) -> None:
        super().__init__()
        self.visual = model.model.visual
        self.heads = DenseHeads(model.config.text_config.hidden_size, len(CLASSES), len(STEPS))

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From (B, 4 * N, 1176) patches of one size to the outputs of the heads for (B, N) tokens."""
        return self.heads(self.tokens(patches))  # type: ignore[no-any-return]

    def tokens(self, patches: Tensor) -> Tensor:
        """Merged visual tokens (B, N, width)."""
        grid = torch.tensor([[1, 2 * ROWS, 2 * COLUMNS]] * len(patches), device=patches.device)
        merged: Tensor = self.visual(patches.flatten(0, 1), grid_thw=grid).pooler_output
        return merged.view(len(patches), ROWS * COLUMNS, -1)


def class_boxes(clip: Clip, frame: int) -> dict[str, Rect]:
    """Boxes of a frame as shares of the picture, held objects under their hand's phrase too."""
    boxes = clip.shares(frame)
    for hand, name in clip.truths[frame].held.items():
        if name in boxes:
            boxes[f"object in the {hand}"] = boxes[name]
    return boxes


class TowerBatches:
    """Batch `index`: pictures, targets; the same for the same seed and number."""

    def __init__(self, data: SimulatedData, *, batch: int, seed: int, augment: bool = True) -> None:
        self.data = data
        self.batch = batch
        self.seed = seed
        self.augment = augment
        self.preprocess = Preprocessor()

    def __getitem__(self, index: int) -> Tensors:
        rng = random.Random(f"tower {self.seed} {index}")
        rows = [self._row(rng) for _ in range(self.batch)]
        patches, inside, boxes, step = (np.stack(column) for column in zip(*rows, strict=True))
        return {
            "patches": torch.from_numpy(patches),
            "inside": torch.from_numpy(inside),
            "boxes": torch.from_numpy(boxes),
            "step": torch.from_numpy(step),
        }

    def _row(self, rng: random.Random) -> tuple[NDArray[np.generic], ...]:
        clip = rng.choice(self.data.clips)
        frames = clip.frames()
        pair = rng.random() < 0.5
        last = rng.randrange(1, len(frames), 2) if pair else rng.randrange(len(frames))
        pictures = [np.array(frames[last - 1]), np.array(frames[last])] if pair else [np.array(frames[last])]
        boxes = class_boxes(clip, last)
        if self.augment and rng.random() < 0.5:
            pictures = [np.ascontiguousarray(picture[:, ::-1]) for picture in pictures]
            boxes = {
                MIRRORED.get(name, name): (1 - x2, y1, 1 - x1, y2) for name, (x1, y1, x2, y2) in boxes.items()
            }
        if self.augment:
            gain = np.array([rng.uniform(0.8, 1.2) * rng.uniform(0.94, 1.06) for _ in range(3)], np.float32)
            lift = rng.uniform(-20, 20)
            pictures = [np.clip(p * gain + lift, 0, 255).astype(np.uint8) for p in pictures]
        inside, rects = dense_target(boxes, CLASSES, ROWS, COLUMNS)
        patches, _ = self.preprocess.patches(pictures, HEIGHT, WIDTH)
        place = clip.truths[last].step
        step = STEPS.index(clip.episode.steps[place].text) if place >= 0 else -100
        return patches, inside, rects, np.array(step, np.int64)


def tower_loss(model: nn.Module, inputs: Tensors) -> dict[str, Tensor]:
    """The dense loss of a batch, as parts."""
    target = DenseTarget(inputs["inside"], inputs["boxes"], inputs["step"])
    return dense_loss(model(inputs["patches"]), target, ROWS, COLUMNS)


def tower_check(tower: Tower, data: SimulatedData, *, batches: int = 8) -> Callable[[], dict[str, float]]:
    """Validation on held-out episodes: mean IoU, balanced accuracy of presence, step accuracy."""
    probe = TowerBatches(data, batch=32, seed=1, augment=False)

    def check() -> dict[str, float]:
        device = next(tower.parameters()).device
        overlaps: dict[str, list[float]] = {"hand": [], "held": [], "kind": []}
        there: dict[str, list[tuple[bool, bool]]] = {"hand": [], "held": [], "kind": []}
        steps: list[bool] = []
        for number in range(batches):
            batch = {name: value.to(device) for name, value in probe[number].items()}
            said = tower(batch["patches"])
            boxes, score = decode_boxes(said, ROWS, COLUMNS)
            overlap = box_iou(boxes, batch["boxes"])
            present = batch["inside"].any(1)
            for place, name in enumerate(CLASSES):
                group = "hand" if name in CLASSES[:2] else "held" if name in HELD else "kind"
                overlaps[group] += overlap[present[:, place], place].tolist()
                there[group] += list(
                    zip(present[:, place].tolist(), (score[:, place] > 0.5).tolist(), strict=True)
                )
            known = batch["step"] >= 0
            steps += (said[2].argmax(-1)[known] == batch["step"][known]).tolist()
        found = {f"{group}_miou": _mean(values) for group, values in overlaps.items()}
        for group, pairs in there.items():
            yes = [said_so for truth, said_so in pairs if truth]
            no = [not said_so for truth, said_so in pairs if not truth]
            found[f"{group}_there_acc"] = (_mean(yes) + _mean(no)) / 2
        return {**found, "step_acc": _mean(steps)}

    return check


def _mean(values: list[float] | list[bool]) -> float:
    return sum(values) / len(values) if values else 0.0
