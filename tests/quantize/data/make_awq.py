"""An AWQ checkpoint as AutoAWQ makes and writes it, with the weights as AutoAWQ dequantises them.

Made on a CPU with Python 3.11, autoawq 0.2.9 (its last release), torch 2.13.0 and transformers 4.51.3, in an
environment of their own:

    CUDA_VISIBLE_DEVICES= python tests/quantize/data/make_awq.py SOURCE

SOURCE is `make_source.py`'s checkpoint of two layers, in fp16, with `--flat`. It writes `awq-gemm`: version
"gemm", zero_point true, groups of 128. Beside it, `dequantised.safetensors` holds what the library's own
`dequantize_gemm` gives for some of the linears, in fp16, as (outputs, inputs).
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from awq import AutoAWQForCausalLM
from awq.utils.packing_utils import dequantize_gemm
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

HERE = Path(__file__).parent
LINEARS = ("layers.0.self_attn.q_proj", "layers.0.mlp.down_proj", "layers.1.self_attn.k_proj")
SETTINGS = {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}


def calibration() -> list[str]:
    """Lines of random letters."""
    chance = random.Random(0)
    return ["".join(chance.choices("abcdefghij klmnopqrstuvwxyz", k=100)) for _ in range(32)]


def main() -> None:
    source = Path(sys.argv[1])
    made = source.parent / "made-awq"
    model = AutoAWQForCausalLM.from_pretrained(str(source), device_map="cpu", safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model.quantize(
        tokenizer,
        quant_config=SETTINGS,
        calib_data=calibration(),
        max_calib_samples=32,
        max_calib_seq_len=128,
    )
    model.save_quantized(str(made))
    folder = HERE / "awq-gemm"
    folder.mkdir(exist_ok=True)
    for file in ("config.json", "model.safetensors"):
        (folder / file).write_bytes((made / file).read_bytes())
    tensors = load_file(made / "model.safetensors")
    dequantised = {}
    for linear in LINEARS:
        packed, zeros, scales = (
            tensors[f"model.{linear}.{part}"] for part in ("qweight", "qzeros", "scales")
        )
        plain = dequantize_gemm(packed, zeros, scales, SETTINGS["w_bit"], SETTINGS["q_group_size"])
        dequantised[f"{linear}.weight"] = plain.T.contiguous()
    save_file(dequantised, folder / "dequantised.safetensors")


if __name__ == "__main__":
    main()
