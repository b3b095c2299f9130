"""Makes rope_positions_4_57.json: M-RoPE positions as transformers 4.57 computes them.

Run it in an environment of its own that holds transformers 4.57 and torch:

    python tests/golden/make_rope_positions.py tests/golden/rope_positions_4_57.json

Each case is a batch of rows; a row is a list of parts: a number of text tokens, or a kind ("image",
"video") with slices, rows and columns in visual tokens. A video or picture stands between its two markers,
which count as text tokens of the parts around it. Of the positions, those of the text are stored one by
one (three axes alike), those of the visual tokens as first and last token of each block, all of them
together as a SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

TEXT, VISION_START, VISION_END, IMAGE, VIDEO, PAD = 1, 2, 3, 4, 5, 0
MERGE = 2
Row = list[int | tuple[str, int, int, int]]

LARGE = (9, 16)  # 448x252
SMALL = (5, 8)  # 224x140


def cases() -> Iterator[tuple[str, list[Row]]]:
    """Name and rows of each case."""
    yield "text only", [[17]]
    yield "one image", [[14, ("image", 1, *LARGE), 9]]
    yield "several images", [[14, ("image", 1, *LARGE), 5, ("image", 1, 3, 4), 4, ("image", 1, 20, 2), 9]]
    for slices in range(1, 41):
        yield f"448x252, {slices} slices", [[14, ("video", slices, *LARGE), 21]]
        yield f"224x140, {slices} slices", [[3, ("video", slices, *SMALL), 6]]
    yield "image then video", [[5, ("image", 1, *LARGE), 6, ("video", 24, *LARGE), 8]]
    yield "video then image", [[5, ("video", 12, *SMALL), 6, ("image", 1, *SMALL), 8]]
    yield "two videos", [[5, ("video", 20, *LARGE), 6, ("video", 9, *SMALL), 8]]
    yield (
        "left-padded batch",
        [
            [14, ("video", 18, *LARGE), 21],
            [5, ("image", 1, *SMALL), 6, ("video", 9, *SMALL), 8],
            [30],
        ],
    )


def batch(rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor, list[list[int]], list[list[int]]]:
    """Token ids and mask of the rows, padded on the left, and their patch grids."""
    ids: list[list[int]] = []
    images: list[list[int]] = []
    videos: list[list[int]] = []
    for row in rows:
        tokens: list[int] = []
        for part in row:
            if isinstance(part, int):
                tokens += [TEXT] * part
            else:
                kind, slices, height, width = part
                tokens[-1] = VISION_START
                tokens += [IMAGE if kind == "image" else VIDEO] * (slices * height * width)
                (images if kind == "image" else videos).append([slices, height * MERGE, width * MERGE])
        ids.append(tokens)
    longest = max(map(len, ids))
    padded = torch.tensor([[PAD] * (longest - len(tokens)) + tokens for tokens in ids])
    return padded, (padded != PAD).long(), images, videos


def positions(rows: list[Row]) -> list[dict[str, object]]:
    """What is stored of each row."""
    model = SimpleNamespace(
        config=SimpleNamespace(
            vision_config=SimpleNamespace(spatial_merge_size=MERGE),
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            vision_start_token_id=VISION_START,
        )
    )
    ids, mask, images, videos = batch(rows)
    found, _ = Qwen2VLModel.get_rope_index(
        model,
        ids,
        torch.tensor(images) if images else None,
        torch.tensor(videos) if videos else None,
        attention_mask=mask,
    )
    stored: list[dict[str, object]] = []
    for number, row in enumerate(rows):
        kept = found[:, number, mask[number] == 1]
        text: list[int] = []
        blocks: list[list[list[int]]] = []
        at = 0
        for part in row:
            length = part if isinstance(part, int) else part[1] * part[2] * part[3]
            block = kept[:, at : at + length]
            if isinstance(part, int):
                assert (block == block[0]).all()
                text += block[0].tolist()
            else:
                blocks.append([block[:, 0].tolist(), block[:, -1].tolist()])
            at += length
        assert at == kept.shape[1]
        digest = hashlib.sha256(kept.contiguous().numpy().tobytes()).hexdigest()
        stored.append({"text": text, "blocks": blocks, "next": int(kept.max()) + 1, "sha256": digest})
    return stored


def main() -> None:
    """Write the table to the path given."""
    lines = [
        json.dumps({"name": name, "rows": rows, "positions": positions(rows)}, separators=(",", ":"))
        for name, rows in cases()
    ]
    made_with = f"transformers {transformers.__version__}"
    text = f'{{"made_with": "{made_with}", "cases": [\n' + ",\n".join(lines) + "\n]}\n"
    Path(sys.argv[1]).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
