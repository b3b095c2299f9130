"""GPTQ checkpoints as gptqmodel makes and writes them, with the weights as gptqmodel dequantises them.

Made on a CPU with Python 3.11, gptqmodel 7.7.0, torch 2.15.0 and transformers 5.24.0, in an environment of
their own; the two settings keep gptqmodel to the CPU and to two workers:

    CUDA_VISIBLE_DEVICES= GPTQMODEL_CPU_WORKERS=2 python tests/quantize/data/make_gptq.py SOURCE-2 SOURCE-1

SOURCE-2 and SOURCE-1 are `make_source.py`'s checkpoints of two layers and one, in bf16 (gptqmodel works
in bf16 on a CPU, and stores scales in fp16). It writes:

- `gptq-sym`: int4, symmetric, groups of 128, desc_act false (`g_idx` in order), format "gptq";
- `gptq-desc-act`: the same with desc_act true: `g_idx` out of order; one layer, there to be refused.

Beside the first, `dequantised.safetensors` holds what the library's own `TorchLinear` dequantises some of
the linears to, in fp16, as (outputs, inputs).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from gptqmodel.models.definitions.base_qwen2_vl import BaseQwen2VLGPTQ
from safetensors.torch import save_file

HERE = Path(__file__).parent
LINEARS = ("layers.0.self_attn.q_proj", "layers.0.mlp.down_proj", "layers.1.self_attn.k_proj")
ROWS = 64

# Text alone is enough here: the processor of pictures is not needed.
BaseQwen2VLGPTQ.require_load_processor = False
BaseQwen2VLGPTQ.prepare_dataset = super(BaseQwen2VLGPTQ, BaseQwen2VLGPTQ).prepare_dataset


def calibration() -> list[dict[str, torch.Tensor]]:
    """Rows of random token ids."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(1, ROWS, dtype=torch.int64)
    rows = [torch.randint(0, 256, (1, ROWS), generator=generator) for _ in range(32)]
    return [{"input_ids": row, "attention_mask": mask} for row in rows]


def make(source: Path, name: str, desc_act: bool) -> None:
    """Quantises the source and keeps what is written; without act-order also the library's reading of it."""
    made = source.parent / "made-gptq" / name
    settings = {"sym": True, "desc_act": desc_act, "act_group_aware": False, "offload_to_disk": False}
    config = QuantizeConfig(bits=4, group_size=128, **settings)
    model = GPTQModel.load(str(source), config, device="cpu")
    model.quantize(calibration(), batch_size=1)
    model.save(str(made))
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    for file in ("config.json", "quantize_config.json", "model.safetensors"):
        (folder / file).write_bytes((made / file).read_bytes())
    if desc_act:
        return
    read = GPTQModel.load(str(made), device="cpu", dtype=torch.float16, backend=BACKEND.TORCH)
    dequantised = {}
    for path, module in read.model.named_modules():
        for linear in LINEARS:
            if path.endswith(linear):
                dequantised[f"{linear}.weight"] = module.dequantize_weight().T.contiguous()
    save_file(dequantised, folder / "dequantised.safetensors")


def main() -> None:
    two, one = (Path(argument) for argument in sys.argv[1:3])
    make(two, "gptq-sym", desc_act=False)
    make(one, "gptq-desc-act", desc_act=True)


if __name__ == "__main__":
    main()
