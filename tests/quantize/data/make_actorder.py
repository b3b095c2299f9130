"""A compressed-tensors checkpoint with act-order, which is there to be refused.

Made on a CPU with Python 3.11, torch 2.13.0, llmcompressor 0.8.1, compressed-tensors 0.12.2 and transformers
4.56.2, in an environment of their own. Later versions of llmcompressor write no such checkpoint any more, but
published ones remain:

    python tests/quantize/data/make_actorder.py SOURCE

SOURCE is `make_source.py`'s checkpoint of one layer, in bf16, with `--flat`. It writes
`compressed-tensors-actorder`: W4A16 by GPTQ with actorder "group", which stores `weight_g_idx` out of order.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

HERE = Path(__file__).parent
IGNORED = ["re:.*visual.*", "lm_head"]
WEIGHTS = QuantizationArgs(
    num_bits=4, type="int", symmetric=True, strategy="group", group_size=128, actorder="group"
)


def calibration() -> Dataset:
    """Rows of random token ids: act-order only needs inputs that differ from channel to channel."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 256, (8, 64), generator=generator).tolist()
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * 64] * 8})


def main() -> None:
    source = Path(sys.argv[1])
    made = source.parent / "made-actorder"
    model = Qwen2VLForConditionalGeneration.from_pretrained(source, torch_dtype=torch.bfloat16)
    scheme = QuantizationScheme(targets=["Linear"], weights=WEIGHTS)
    oneshot(
        model=model,
        processor=AutoTokenizer.from_pretrained(source),
        dataset=calibration(),
        recipe=GPTQModifier(config_groups={"group_0": scheme}, ignore=IGNORED),
        num_calibration_samples=8,
        max_seq_length=64,
        pipeline="basic",
    )
    model.save_pretrained(made, save_compressed=True)
    folder = HERE / "compressed-tensors-actorder"
    folder.mkdir(exist_ok=True)
    for file in ("config.json", "model.safetensors"):
        (folder / file).write_bytes((made / file).read_bytes())


if __name__ == "__main__":
    main()
