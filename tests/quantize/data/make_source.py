"""Writes the small Qwen2-VL checkpoint that the other scripts of this folder quantise.

Run it in the project's environment; `--layers 1` for the checkpoints that are only there to be refused:

    .venv/bin/python tests/quantize/data/make_source.py FOLDER [--layers 1] [--dtype float16] [--flat]

`--flat` writes the configuration as transformers 4.x did: the text model's settings at the top. Libraries
that need that version read no other, and it is what most published checkpoints have.

Random weights, seed 0. The widths are the smallest that hold whole groups of 128. The vocabulary is that of
`tests/support/checkpoints.py`, so that tests take the tokenizer from there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
from checkpoints import make_checkpoint

TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
}
VISION = {"depth": 1, "embed_dim": 16, "num_heads": 1, "mlp_ratio": 2, "hidden_size": 128}


def flatten(path: Path) -> None:
    """Rewrites a configuration of transformers 5.x in the form of 4.x."""
    config = json.loads(path.read_text())
    text, vision = config.pop("text_config"), config["vision_config"]
    rope = text.pop("rope_parameters")
    for unused in ("layer_types", "model_type", "pad_token_id"):
        text.pop(unused)
    vision.pop("rope_parameters")
    vision["in_chans"] = vision.pop("in_channels")
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    flat = {**text, "rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    flat |= {**config, "torch_dtype": config.pop("dtype"), "transformers_version": "4.45.0"}
    flat.pop("dtype", None)
    path.write_text(json.dumps(flat, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16"))
    parser.add_argument("--flat", action="store_true")
    options = parser.parse_args()
    text = {**TEXT, "num_hidden_layers": options.layers}
    make_checkpoint(options.folder, text=text, vision=VISION, tied=True, dtype=getattr(torch, options.dtype))
    # AutoAWQ loads the processor of pictures, though it quantises with text alone.
    processor = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor"}
    (options.folder / "preprocessor_config.json").write_text(json.dumps(processor))
    if options.flat:
        flatten(options.folder / "config.json")


if __name__ == "__main__":
    main()
