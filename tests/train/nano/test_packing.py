"""Many questions packed in one row are to the text part what each question is alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen2TokenizerFast, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from egolive.assistant.model.positions import get_rope_index
from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.prompts.prompts import build_prompt
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Prompt, Vision
from egolive.assistant.schema.profiles import NANO
from egolive.streaming.frames import Interval
from egolive.train.nano.answer_loss import answer_logits, answer_loss
from egolive.train.nano.box_heads import BoxHeads
from egolive.train.nano.nano_model import COLUMNS, HEIGHT, ROWS, WIDTH, new_nano
from egolive.train.nano.nano_sft import nano_tokenizer
from egolive.train.nano.packing import IGNORED, Batch, Row, collate, pack

QUESTIONS = (
    Question("ground", "left hand"),
    Question("when", "open the jar"),
    Question("intent"),
    Question("ground", "object in the right hand"),
)
ANSWERS = ("<|box_start|>(12,345),(678,1000)<|box_end|>", "(0.5,7.0)", "make tea", "none")
PIXELS = np.zeros((1, 1, 3), np.uint8)
IMAGE = Vision((PIXELS,), HEIGHT, WIDTH, "image")
# Beyond eight slices the positions of transformers 4.x and 5.x part.
SLICES = 9
VIDEO = Vision((PIXELS,) * (2 * SLICES), HEIGHT, WIDTH, "video")


@cache
def tokenizer() -> Qwen2TokenizerFast:
    return nano_tokenizer()


@cache
def model() -> Qwen2VLForConditionalGeneration:
    """Nano with weights so wide that what it says depends on all that it has read."""
    fresh = new_nano(tokenizer(), seed=1).eval()
    with torch.no_grad():
        for name, weight in fresh.named_parameters():
            if weight.ndim > 1 and "embed_tokens" not in name:
                weight.normal_(0, 1.5 * weight[0].numel() ** -0.5)
    return fresh


def prompts_of(vision: Vision) -> list[Prompt]:
    return [build_prompt(NANO, question, [vision], window=Interval(0, 8)) for question in QUESTIONS]


@cache
def patches_of(slices: int) -> Tensor:
    """Patches of noise, (slices * 160, 1176)."""
    rng = np.random.default_rng(slices)
    frames = rng.integers(0, 256, (slices, 2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return torch.from_numpy(
        np.concatenate([Preprocessor().patches(list(f), HEIGHT, WIDTH)[0] for f in frames])
    )


def grid_of(slices: int) -> Tensor:
    return torch.tensor([[slices, 2 * ROWS, 2 * COLUMNS]])


@cache
def visual_of(slices: int) -> Tensor:
    """Visual tokens, (slices * 40, width)."""
    with torch.inference_mode():
        merged: Tensor = model().model.visual(patches_of(slices), grid_thw=grid_of(slices)).pooler_output
    return merged


def packed_logits(batch: Batch, visual: Tensor) -> Tensor:
    inputs = {
        "tokens": batch.tokens,
        "positions": batch.positions,
        "labels": batch.labels,
        "mask": batch.mask,
        "visual": visual,
    }
    with torch.inference_mode():
        return answer_logits(model(), inputs)[0]


def alone_logits(vision: Vision, slices: int, prompt: Prompt, answer: str) -> Tensor:
    """What the stock model, tower and all, says at the tokens of one answer, teacher-forced."""
    pad = "<|image_pad|>" if vision.kind == "image" else "<|video_pad|>"
    text = "".join(
        part if isinstance(part, str) else pad * (slices * ROWS * COLUMNS) for part in prompt.parts
    )
    asked: list[int] = tokenizer()(text)["input_ids"]
    reply: list[int] = tokenizer()(answer)["input_ids"]
    tokens = torch.tensor([asked + reply])
    config = model().config
    types = (tokens == config.image_token_id).long() + 2 * (tokens == config.video_token_id).long()
    pixels, grid = (
        ("pixel_values", "image_grid_thw")
        if vision.kind == "image"
        else ("pixel_values_videos", "video_grid_thw")
    )
    with torch.inference_mode():
        logits: Tensor = model()(
            input_ids=tokens,
            mm_token_type_ids=types,
            use_cache=False,
            **{pixels: patches_of(slices), grid: grid_of(slices)},
        ).logits
    return logits[0, len(asked) - 1 :]


def shifted(row: Row) -> Row:
    """The row with all its tails one position too far."""
    return replace(row, positions=row.positions + (row.tail > 0))


@pytest.mark.parametrize(("vision", "slices"), [(IMAGE, 1), (VIDEO, SLICES)], ids=["picture", "window"])
def test_packed_questions_give_the_logits_of_each_question_alone(
    vision: Vision, slices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Qwen2VLModel, "get_rope_index", get_rope_index)
    prompts = prompts_of(vision)
    row = pack(prompts, ANSWERS, tokenizer())
    alone = torch.cat([alone_logits(vision, slices, p, a) for p, a in zip(prompts, ANSWERS, strict=True)])
    packed = packed_logits(collate([row], pad=0), visual_of(slices)[None])
    assert packed.shape == alone.shape
    assert len(set(alone.argmax(-1).tolist())) >= 8, "a model that repeats itself proves nothing"
    assert (packed - alone).abs().max() <= 1e-4
    off = packed_logits(collate([shifted(row)], pad=0), visual_of(slices)[None])
    assert (off - alone).abs().max() > 1e-2


def test_the_loss_of_a_packed_row_is_the_mean_over_the_tokens_of_all_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Qwen2VLModel, "get_rope_index", get_rope_index)
    prompts = prompts_of(IMAGE)
    losses = []
    for prompt, answer in zip(prompts, ANSWERS, strict=True):
        truth = [*tokenizer()(answer)["input_ids"], tokenizer().convert_tokens_to_ids("<|im_end|>")]
        chances = alone_logits(IMAGE, 1, prompt, answer).log_softmax(-1)
        losses += [-float(chances[place, token]) for place, token in enumerate(truth)]
    batch = collate([pack(prompts, ANSWERS, tokenizer())], pad=0)
    inputs = {name: getattr(batch, name) for name in ("tokens", "positions", "labels", "mask")}
    nothing_else = {
        "word_there": torch.full(batch.tokens.shape, -1.0),
        "word_boxes": torch.zeros(*batch.tokens.shape, 4),
        "inside": torch.zeros(0),
        "rects": torch.zeros(0),
        "aim": torch.zeros(*batch.tokens.shape, 2, dtype=torch.bool),
        "visual": visual_of(1)[None],
    }
    model().reading = BoxHeads(model().config.text_config.hidden_size, 2)
    with torch.inference_mode():
        rows = {f"pictures.{name}": value for name, value in (inputs | nothing_else).items()}
        parts = answer_loss(model(), rows)
    del model().reading
    assert set(parts) == {"pictures_answers"}
    loss = parts["pictures_answers"]
    assert float(loss) == pytest.approx(np.mean(losses), abs=1e-4)


def test_without_the_mask_the_questions_would_read_each_other() -> None:
    row = pack(prompts_of(IMAGE), ANSWERS, tokenizer())
    batch = collate([row], pad=0)
    seen = replace(batch, mask=torch.ones_like(batch.mask).tril())
    visual = visual_of(1)[None]
    difference = (packed_logits(batch, visual) - packed_logits(seen, visual)).abs()
    assert difference.max() > 1e-2


def test_padding_does_not_change_a_row() -> None:
    short = pack(prompts_of(IMAGE)[:1], ANSWERS[:1], tokenizer())
    long = pack(prompts_of(IMAGE), ANSWERS, tokenizer())
    count = int((short.labels != IGNORED).sum())
    visual = visual_of(1)[None]
    alone = packed_logits(collate([short], pad=0), visual)
    padded = packed_logits(collate([short, long], pad=0), visual.expand(2, -1, -1))
    assert len(padded) > count == len(alone)
    assert padded.isfinite().all()
    assert (padded[:count] - alone).abs().max() <= 1e-4


def test_each_tail_predicts_its_answer_and_the_end_of_the_turn() -> None:
    row = pack(prompts_of(IMAGE), ANSWERS, tokenizer())
    for number, answer in enumerate(ANSWERS, start=1):
        labels = row.labels[(row.tail == number) & (row.labels != IGNORED)]
        assert tokenizer().decode(labels.tolist()) == f"{answer}<|im_end|>"
    assert (row.labels[row.tail == 0] == IGNORED).all()


def test_each_tail_starts_one_past_the_largest_position_of_the_window() -> None:
    row = pack(prompts_of(VIDEO), ANSWERS, tokenizer())
    first = int(row.positions[:, row.tail == 0].max()) + 1
    # The text before the window, then nine slices: their number is larger than that of rows and columns.
    assert first == int((row.tail == 0).sum()) - SLICES * ROWS * COLUMNS + SLICES
    for number in range(1, len(QUESTIONS) + 1):
        tail = row.positions[:, row.tail == number]
        assert (tail == first + np.arange(tail.shape[1])).all()


def test_prompts_about_different_pictures_are_not_packed() -> None:
    other = Vision((PIXELS,), HEIGHT, WIDTH, "image")
    prompts = [*prompts_of(IMAGE)[:1], *prompts_of(other)[:1]]
    with pytest.raises(ValueError, match="share everything but the last text"):
        pack(prompts, ANSWERS[:2], tokenizer())
