"""Nano's tokenizer writes any text, and keeps Qwen2-VL's names and chat format."""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, Qwen2TokenizerFast

from egolive.assistant.prompts.prompts import build_prompt
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import NANO
from egolive.train.nano.nano_model import nano_config
from egolive.train.nano.nano_sft import nano_tokenizer
from egolive.train.nano.tokenizer_training import SPECIAL_TOKENS, build_tokenizer

SAMPLES = (
    "<|box_start|>(123,456),(789,1000)<|box_end|>",
    "pour water from the kettle into the mug",
    "  two blanks,\n\n\ttabs and 1234567890\r\n",
    "Où est la tasse ? 一杯茶 🍵👩‍🍳",
)


@cache
def tokenizer() -> Qwen2TokenizerFast:
    return nano_tokenizer()


def ids_of(text: str) -> list[int]:
    ids: list[int] = tokenizer()(text, add_special_tokens=False)["input_ids"]
    return ids


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_comes_back_as_it_was_written(text: str) -> None:
    assert tokenizer().decode(ids_of(text)) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("text", SAMPLES)
def test_samples_come_back_as_they_were_written(text: str) -> None:
    assert tokenizer().decode(ids_of(text)) == text


def test_every_digit_is_a_token_of_its_own() -> None:
    pieces = [tokenizer().decode([token]) for token in ids_of("at 1000 or (27,3.5)")]
    assert "".join(pieces) == "at 1000 or (27,3.5)"
    assert all(len(piece.strip()) == 1 for piece in pieces if any(letter.isdigit() for letter in piece))


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_a_special_token_is_one_id_wherever_it_stands(name: str) -> None:
    token = tokenizer().convert_tokens_to_ids(name)
    assert ids_of(f"x{name}1")[1:-1] == [token]
    assert tokenizer().decode([token], skip_special_tokens=True) == ""


def test_words_of_the_simulator_take_few_tokens() -> None:
    assert len(ids_of("make tea")) <= 3
    assert len(ids_of("Find the left hand.")) <= 6


def test_the_chat_template_writes_what_our_prompts_write() -> None:
    vision = Vision((), 140, 224, "video")
    prompt = build_prompt(NANO, Question("intent"), [vision])
    messages = [
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": NANO.prompts.intent}]}
    ]
    text = tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "".join(part if isinstance(part, str) else "<|video_pad|>" for part in prompt.parts)


def test_the_chat_template_takes_plain_texts_and_images() -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]},
        {"role": "assistant", "content": "none"},
    ]
    assert tokenizer().apply_chat_template(messages, tokenize=False) == (
        "<|im_start|>system\nBe short.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Where?<|im_end|>\n"
        "<|im_start|>assistant\nnone<|im_end|>\n"
    )


def test_a_saved_tokenizer_is_read_back_the_same_by_transformers(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer().get_vocab()
    assert loaded.chat_template == tokenizer().chat_template
    assert (loaded.eos_token, loaded.pad_token) == ("<|im_end|>", "<|endoftext|>")
    for text in (*SAMPLES, "".join(SPECIAL_TOKENS), "It's 12 o'clock. You'll see..."):
        assert loaded(text)["input_ids"] == ids_of(text)
        assert loaded.decode(ids_of(text)) == tokenizer().decode(ids_of(text))


def test_building_twice_gives_the_same_ids() -> None:
    # A run that is resumed builds its tokenizer anew.
    assert nano_tokenizer().get_vocab() == tokenizer().get_vocab()


def test_the_config_takes_its_ids_from_whatever_tokenizer_there_is() -> None:
    other = build_tokenizer(["some other words"], size=300)
    assert len(other) <= 300
    for built in (tokenizer(), other):
        config = nano_config(built)
        token = built.convert_tokens_to_ids
        assert config.image_token_id == token("<|image_pad|>")
        assert config.video_token_id == token("<|video_pad|>")
        assert config.vision_start_token_id == token("<|vision_start|>")
        assert config.text_config.eos_token_id == token("<|im_end|>") == built.eos_token_id
        assert config.text_config.pad_token_id == token("<|endoftext|>") == built.pad_token_id
        assert len(built) <= config.text_config.vocab_size
        assert config.text_config.vocab_size % 128 == 0
