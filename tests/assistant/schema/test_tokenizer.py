"""The tokenizer: control tokens from the checkpoint, text that never breaks inside a character."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paths import REAL, needs_real

from egolive.assistant.schema.tokenizer import Tokenizer, load_tokenizer
from egolive.streaming.errors import EngineError

PROCESSOR = REAL / "processor"


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    return load_tokenizer(
        tiny_checkpoint, image_token=config["image_token_id"], video_token=config["video_token_id"]
    )


def streamed(tokenizer: Tokenizer, ids: list[int]) -> tuple[list[str], str]:
    decoder = tokenizer.decoder()
    return [decoder.push(token) for token in ids], decoder.finish()


def test_control_tokens_in_a_text_are_recognised(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|im_start|>user\nhi<|im_end|>")
    assert ids[-1] in tokenizer.eos
    assert tokenizer.decode(ids) == "<|im_start|>user\nhi<|im_end|>"
    assert tokenizer.encode("") == []


@given(text=st.text(max_size=60))
@example(text="<|image_pad|>")
@example(text="a <|video_pad|>")
def test_streamed_text_is_the_text(tokenizer: Tokenizer, text: str) -> None:
    # hypothesis also draws the literals of our modules, these two among them.
    if "<|image_pad|>" in text or "<|video_pad|>" in text:
        with pytest.raises(EngineError, match="pictures are passed as pictures"):
            tokenizer.encode(text)
        return
    ids = tokenizer.encode(text)
    pieces, rest = streamed(tokenizer, ids)
    assert "".join(pieces) + rest == tokenizer.decode(ids)


@given(data=st.data())
def test_streamed_tokens_of_any_kind_are_their_decoding(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    pieces, rest = streamed(tokenizer, ids)
    joined = b"".join(map(tokenizer.token_bytes, ids)).decode(errors="replace")
    assert "".join(pieces) + rest == joined


def test_half_a_character_is_held_back_until_it_is_whole(tokenizer: Tokenizer) -> None:
    pieces, rest = streamed(tokenizer, tokenizer.encode("猫é🧵"))
    assert "".join(pieces) == "猫é🧵"
    assert "" in pieces
    assert not rest
    assert "\ufffd" not in "".join(pieces)
    cut, rest = streamed(tokenizer, tokenizer.encode("🧵")[:-1])
    assert ("".join(cut), rest) == ("", "\ufffd")


def test_an_id_beyond_the_vocabulary_has_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes(len(tokenizer) + 5) == b""


def test_tokens_of_pictures_are_known_by_name(tokenizer: Tokenizer) -> None:
    assert {tokenizer.image_token, tokenizer.video_token} < tokenizer.vision_tokens
    assert len(tokenizer.vision_tokens) == 5


@pytest.fixture(scope="module")
def real_tokenizer() -> Tokenizer:
    config = json.loads((PROCESSOR / "qwen2_vl" / "config.2b.json").read_text())
    return load_tokenizer(
        PROCESSOR / "qwen2_vl", image_token=config["image_token_id"], video_token=config["video_token_id"]
    )


@needs_real
def test_qwen2_vls_own_vocabulary_gives_the_recorded_ids(real_tokenizer: Tokenizer) -> None:
    golden = json.loads((PROCESSOR / "golden_tokens.json").read_text(encoding="utf-8"))
    checked = [row for row in golden["rows"] if "_pad|>" not in row["text"]]
    assert len(checked) >= 5
    for row in checked:
        assert real_tokenizer.encode(row["text"]) == row["ids"]
        pieces, rest = streamed(real_tokenizer, row["ids"])
        assert "".join(pieces) + rest == row["text"]


@needs_real
def test_qwen2_vls_own_ends_and_picture_tokens_are_found(real_tokenizer: Tokenizer) -> None:
    assert {real_tokenizer.decode([token]) for token in real_tokenizer.eos} == {
        "<|im_end|>",
        "<|endoftext|>",
    }
    assert {real_tokenizer.decode([token]) for token in real_tokenizer.vision_tokens} == {
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    }


def test_a_folder_without_a_tokenizer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="has no tokenizer"):
        load_tokenizer(tmp_path, image_token=1, video_token=2)


def test_a_broken_tokenizer_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    with pytest.raises(EngineError, match="cannot be read") as caught:
        load_tokenizer(tmp_path, image_token=1, video_token=2)
    assert "\n" not in str(caught.value)


def test_another_models_tokenizer_is_one_line(tiny_checkpoint: Path) -> None:
    with pytest.raises(EngineError, match="is not the one this model"):
        load_tokenizer(tiny_checkpoint, image_token=151_655, video_token=151_656)
