"""Phase two of nano's SFT: the text decoder is trained on the visual tokens of the finished tower.

The loss of a batch, and the validation on held-out episodes; batches are made in `answer_batches`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import Qwen2VLForConditionalGeneration

from egolive.train.common.loop import Tensors
from egolive.train.nano.answer_batches import KINDS, AnswerBatches
from egolive.train.nano.attention_loss import attention_loss
from egolive.train.nano.box_heads import BoxHeads, box_head_loss
from egolive.train.nano.packing import IGNORED

__all__ = ["answer_check", "answer_logits", "answer_loss", "kinds"]


def answer_logits(model: nn.Module, inputs: Tensors) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    """Logits (n, vocabulary) where a token counts, those tokens (n,), and all hidden states (B, L, width)."""
    assert isinstance(model, Qwen2VLForConditionalGeneration)
    language = model.model.language_model
    embeddings = language.embed_tokens(inputs["tokens"])
    visual = visual_tokens(model, inputs)
    embeddings = embeddings.masked_scatter(visual[..., None], inputs["visual"].to(embeddings.dtype))
    said = language(
        inputs_embeds=embeddings,
        position_ids=inputs["positions"],
        attention_mask=inputs["mask"],
        use_cache=False,
        output_hidden_states=True,
    )
    counted = inputs["labels"] != IGNORED
    logits = model.lm_head(said.last_hidden_state[counted]).float()
    return logits, inputs["labels"][counted], said.hidden_states


def visual_tokens(model: Qwen2VLForConditionalGeneration, inputs: Tensors) -> Tensor:
    """(B, L) bool: where a visual token stands."""
    tokens = inputs["tokens"]
    visual: Tensor = (tokens == model.config.image_token_id) | (tokens == model.config.video_token_id)
    return visual


def answer_loss(model: nn.Module, inputs: Tensors) -> dict[str, Tensor]:
    """Next-token cross-entropy over the answers, attention supervision loss and box regression losses.

    Returns:
        The parts by name, those of pictures and of windows under names of their own.
    """
    assert isinstance(model, Qwen2VLForConditionalGeneration)
    heads = model.get_submodule("reading")
    assert isinstance(heads, BoxHeads)
    found: dict[str, Tensor] = {}
    for kind, rows in kinds(inputs):
        logits, labels, hidden = answer_logits(model, rows)
        parts = {"answers": F.cross_entropy(logits, labels)}
        visual = visual_tokens(model, rows)
        if bool(rows["aim"].any()):
            parts["pointing"] = attention_loss(model, visual, rows["aim"])
        parts |= box_head_loss(heads, hidden, visual, rows)
        found |= {f"{kind}_{name}": value for name, value in parts.items()}
    return found


def kinds(inputs: Tensors) -> Iterator[tuple[str, Tensors]]:
    """The rows of pictures and the rows of windows in a batch, each where there are any."""
    for kind in KINDS:
        start = f"{kind}."
        rows = {name.removeprefix(start): value for name, value in inputs.items() if name.startswith(start)}
        if rows:
            yield kind, rows


def answer_check(
    model: Qwen2VLForConditionalGeneration, batches: AnswerBatches
) -> Callable[[], dict[str, float]]:
    """Validation on held-out episodes: loss and token accuracy, on pictures and on windows."""

    def check() -> dict[str, float]:
        found: dict[str, list[float]] = {}
        device = model.device
        for number in range(8):
            batch = {name: value.to(device) for name, value in batches[number].items()}
            for kind, rows in kinds(batch):
                logits, labels, _ = answer_logits(model, rows)
                found.setdefault(f"{kind}_loss", []).append(float(F.cross_entropy(logits, labels)))
                right = (logits.argmax(-1) == labels).float().mean()
                found.setdefault(f"{kind}_token_acc", []).append(float(right))
        return {name: sum(values) / len(values) for name, values in found.items()}

    return check
