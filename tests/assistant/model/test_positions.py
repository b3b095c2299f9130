"""Our M-RoPE positions and the override, against a table made with transformers 4.57."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from paths import GOLDEN
from transformers import Qwen2VLConfig
from transformers.models.qwen2_vl import modeling_qwen2_vl

from egolive.assistant.model.positions import Part, install_rope_override, rope_positions

TABLE = json.loads((GOLDEN / "rope_positions_4_57.json").read_text("utf-8"))
CASES = {case["name"]: case for case in TABLE["cases"]}
IMAGE, VIDEO, MERGE = 4, 5, 2


def parts_of(row: list[Any]) -> list[Part]:
    return [part if isinstance(part, int) else (part[1], part[2], part[3]) for part in row]


def digest(positions: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(positions, dtype=np.int64).tobytes()).hexdigest()


@pytest.mark.parametrize("name", CASES)
def test_our_positions_are_those_of_transformers_4_57(name: str) -> None:
    case = CASES[name]
    for row, golden in zip(case["rows"], case["positions"], strict=True):
        positions = rope_positions(parts_of(row))
        assert digest(positions) == golden["sha256"]
        assert positions.max() + 1 == golden["next"]


def test_the_table_reaches_beyond_the_lengths_where_transformers_5_differs() -> None:
    assert {"448x252, 40 slices", "224x140, 40 slices"} <= CASES.keys()
    text = CASES["448x252, 20 slices"]["positions"][0]["text"]
    assert text[14] == 14 + 20  # 4.x counts the 20 slices, 5.x would go on at 14 + 16


def test_positions_start_where_they_are_told() -> None:
    parts: list[Part] = [4, (3, 2, 2), 5]
    assert (rope_positions(parts, start=7) == rope_positions(parts) + 7).all()


def test_an_empty_sequence_has_no_positions() -> None:
    assert rope_positions([]).shape == (3, 0)


def test_a_slice_that_is_appended_leaves_the_positions_before_it_alone() -> None:
    shorter, longer = rope_positions([9, (4, 5, 8)]), rope_positions([9, (5, 5, 8)])
    assert (longer[:, : shorter.shape[1]] == shorter).all()


class Model:
    """As much of a Qwen2VLModel as positions need."""

    config = Qwen2VLConfig(image_token_id=IMAGE, video_token_id=VIDEO)
    get_vision_position_ids = modeling_qwen2_vl.Qwen2VLModel.get_vision_position_ids


def rope_index(
    rule: Callable[..., Any], rows: list[list[Any]], *, types: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids: list[list[int]] = []
    grids: dict[int, list[list[int]]] = {IMAGE: [], VIDEO: []}
    for row in rows:
        tokens: list[int] = []
        for part in row:
            if isinstance(part, int):
                tokens += [1] * part
            else:
                token = IMAGE if part[0] == "image" else VIDEO
                tokens += [token] * (part[1] * part[2] * part[3])
                grids[token].append([part[1], part[2] * MERGE, part[3] * MERGE])
        ids.append(tokens)
    longest = max(map(len, ids))
    padded = torch.tensor([[0] * (longest - len(tokens)) + tokens for tokens in ids])
    mask = (padded != 0).long()
    type_ids = (padded == IMAGE).long() + 2 * (padded == VIDEO).long()
    positions, deltas = rule(
        Model(),
        padded,
        mm_token_type_ids=type_ids if types else None,
        image_grid_thw=torch.tensor(grids[IMAGE]) if grids[IMAGE] else None,
        video_grid_thw=torch.tensor(grids[VIDEO]) if grids[VIDEO] else None,
        attention_mask=mask,
    )
    return positions, deltas, mask


@pytest.mark.parametrize("types", [True, False], ids=["given types", "types from ids"])
@pytest.mark.parametrize("name", CASES)
def test_the_override_gives_transformers_5_the_positions_of_4_57(name: str, types: bool) -> None:
    install_rope_override()
    case = CASES[name]
    rule = modeling_qwen2_vl.Qwen2VLModel.get_rope_index
    positions, deltas, mask = rope_index(rule, case["rows"], types=types)
    for number, golden in enumerate(case["positions"]):
        kept = positions[:, number, mask[number] == 1]
        assert digest(kept.numpy()) == golden["sha256"]
        assert deltas[number].item() + kept.shape[1] == golden["next"]


def test_the_override_differs_from_the_stock_rule_only_where_slices_outnumber_rows_and_columns(
    stock_rope_index: Callable[..., Any],
) -> None:
    install_rope_override()
    ours = modeling_qwen2_vl.Qwen2VLModel.get_rope_index
    assert ours is not stock_rope_index
    for slices, same in [(1, True), (16, True), (17, False), (40, False)]:
        rows = CASES[f"448x252, {slices} slices"]["rows"]
        assert torch.equal(rope_index(ours, rows)[0], rope_index(stock_rope_index, rows)[0]) == same


def test_the_override_tells_when_grids_and_tokens_do_not_agree() -> None:
    install_rope_override()
    rule = modeling_qwen2_vl.Qwen2VLModel.get_rope_index
    ids = torch.tensor([[1, IMAGE, IMAGE, 1]])
    with pytest.raises(ValueError, match="more pictures or videos than grids"):
        rule(Model(), ids)
    with pytest.raises(ValueError, match="fewer tokens"):
        rule(Model(), ids, image_grid_thw=torch.tensor([[1, 8, 8]]))
