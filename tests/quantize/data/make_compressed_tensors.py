"""Compressed-tensors checkpoints as llmcompressor writes them, with the library's own reading of the weights.

Made on a CPU with Python 3.11, torch 2.13.0, llmcompressor 0.14.0, compressed-tensors 0.19.0 and transformers
5.17.0, in an environment of their own (llmcompressor does not resolve beside the project's lock):

    python tests/quantize/data/make_compressed_tensors.py SOURCE

SOURCE is `make_source.py`'s checkpoint of two layers, in bf16. It writes:

- `compressed-tensors-sym`: scheme W4A16, symmetric, groups of 128, by `model_free_ptq` (rounding to nearest);
- `compressed-tensors-asym`: scheme W4A16_ASYM, with packed zero points, likewise.

Beside each checkpoint, `dequantised.safetensors` holds what compressed-tensors' own decompression gives for
some of the linears, as it gives it (bf16).
"""

from __future__ import annotations

import sys
from pathlib import Path

from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationConfig
from llmcompressor import model_free_ptq
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

HERE = Path(__file__).parent
LINEARS = ("layers.0.self_attn.q_proj", "layers.0.mlp.down_proj", "layers.1.self_attn.k_proj")
IGNORED = ["re:.*visual.*", "re:.*lm_head", "re:.*embed_tokens"]


def keep(made: Path, name: str) -> None:
    """Copies the configuration and the weights, and adds what the library dequantises them to."""
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    for file in ("config.json", "model.safetensors"):
        (folder / file).write_bytes((made / file).read_bytes())
    quantisation = QuantizationConfig.model_validate(AutoConfig.from_pretrained(made).quantization_config)
    (scheme,) = quantisation.config_groups.values()
    tensors = load_file(made / "model.safetensors")
    dequantised = {}
    for linear in LINEARS:
        found = {name.rpartition(".")[2]: tensor for name, tensor in tensors.items() if f".{linear}." in name}
        found.pop("bias", None)
        if found:
            plain = PackedQuantizationCompressor.decompress(found, scheme)["weight"]
            dequantised[f"{linear}.weight"] = plain.contiguous()
    save_file(dequantised, folder / "dequantised.safetensors")


def main() -> None:
    two = Path(sys.argv[1])
    made = two.parent / "made-compressed-tensors"
    for scheme, name in (("W4A16", "compressed-tensors-sym"), ("W4A16_ASYM", "compressed-tensors-asym")):
        model_free_ptq(two, made / name, scheme=scheme, ignore=IGNORED, device="cpu")
        keep(made / name, name)


if __name__ == "__main__":
    main()
