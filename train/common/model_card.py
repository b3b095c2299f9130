"""The card of a trained model: what it is, how it was made, and what was measured; written by commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from egolive.assistant.model.checkpoint import resolve_model
from egolive.streaming.errors import ConfigError, DataError

__all__ = ["add_measurements", "check_card", "write_card", "write_tuned_card"]

MEASURED = "## Measured"

_TEXT = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [qwen2_vl, egocentric, grounding, simulator]
---

# egolive nano

A Qwen2-VL of {millions:.1f} million weights, trained from nothing on egolive's simulator. It is for trying
and testing egolive where the real model does not fit, and it is **not EgoThinker**: it knows the simulator's
kitchen and workbench, and nothing else.

- Architecture: `Qwen2VLForConditionalGeneration`; byte-level BPE of {vocabulary} tokens with Qwen2-VL's
  special tokens
- Picture: 224 x 140, 40 visual tokens a picture or slice; boxes as
  `<|box_start|>(x1,y1),(x2,y2)<|box_end|>`, 0 to 1000
- Data: {episodes} simulated episodes of the training split, {frames} frames at 2 a second, no real pictures
- Made by: `{command}` in {time} on {device}; recipe below
- Licence: Apache-2.0

```yaml
{recipe}
```
"""

_TUNED = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [qwen2_vl, egocentric, grounding]
---

# {name}

`{base}`, trained further by {method}. {kind}

- Steps: {steps}
- Made by: `{command}` in {time} on {device}; recipe below
{notes}
```yaml
{recipe}
```
"""


def write_card(folder: Path, values: Mapping[str, object]) -> None:
    """Write README.md; `values` fill the placeholders of the text above, all of them."""
    (folder / "README.md").write_text(_TEXT.format(**values), encoding="utf-8")


def write_tuned_card(folder: Path, values: Mapping[str, object]) -> None:
    """Write README.md of a checkpoint that was trained further; `values` fill the placeholders."""
    (folder / "README.md").write_text(_TUNED.format(**values), encoding="utf-8")


def check_card(folder: Path, model: str | None = None) -> None:
    """See that there is a card to write figures into, before they are measured.

    Args:
        folder: has the card.
        model: what is measured, by its name or folder.

    Raises:
        DataError: there is none.
        ConfigError: it is the card of another model than the measured one.
    """
    if not (folder / "README.md").is_file():
        raise DataError(
            f"{folder} has no README.md to write the figures into: is it a trained model's folder?"
        )
    if model is not None and resolve_model(model).resolve() != folder.resolve():
        raise ConfigError(
            f"{folder} has the card of another model than {model}, which is measured: "
            f"give --model {folder}, or leave --card away"
        )


def add_measurements(folder: Path, table: str, command: str, machine: str) -> None:
    """Put a measured table into the card in `folder`, in place of the one that was there.

    Raises:
        DataError: there is no card.
    """
    check_card(folder)
    path = folder / "README.md"
    head = path.read_text(encoding="utf-8").split(MEASURED)[0].rstrip()
    text = f"{head}\n\n{MEASURED}\n\n`{command}` on {machine}:\n\n{table}\n"
    path.write_text(text, encoding="utf-8")
