"""Text to token ids and back, for any Qwen2-VL checkpoint; what is a control token comes from its own files.

Decoding goes token by token over bytes, so that a live answer never shows half a character.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Protocol, cast

from transformers import AutoTokenizer

from egolive.assistant.schema.tokenizer_files import check_tokenizer_files
from egolive.streaming.errors import EngineError
from egolive.streaming.json_files import read_json_object

__all__ = ["TextDecoder", "Tokenizer", "load_tokenizer"]

_VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


class _HubTokenizer(Protocol):
    """As much of transformers' tokenizer as is used here."""

    eos_token_id: int | None

    def __len__(self) -> int: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def convert_ids_to_tokens(self, ids: int) -> str | None: ...

    def get_added_vocab(self) -> dict[str, int]: ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str: ...


class Tokenizer:
    """A checkpoint's byte-level vocabulary and its control tokens."""

    def __init__(
        self, tokenizer: _HubTokenizer, *, image_token: int, video_token: int, eos: frozenset[int]
    ) -> None:
        self._tokenizer = tokenizer
        self.image_token = image_token
        """Id that stands for each visual token of an image."""
        self.video_token = video_token
        """Id that stands for each visual token of a video."""
        self.eos = eos
        """Ids that end an answer."""

    def __len__(self) -> int:
        """Number of ids that stand for a text; a model may have more outputs than that."""
        return len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, control tokens in it recognised and none added.

        Raises:
            EngineError: the text itself holds a token that stands for pictures.
        """
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        if self.image_token in ids or self.video_token in ids:
            raise EngineError(
                "the text of a prompt holds <|image_pad|> or <|video_pad|>: take it out, "
                "pictures are passed as pictures"
            )
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of an answer, control tokens kept."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for; none for an id outside the vocabulary."""
        text = self._tokenizer.convert_ids_to_tokens(token) if token < len(self) else None
        if text is None:
            return b""
        if text in self._added:
            return text.encode()
        return bytes(_BYTE_OF[letter] for letter in text)

    @cached_property
    def _added(self) -> frozenset[str]:
        return frozenset(self._tokenizer.get_added_vocab())

    @cached_property
    def vision_tokens(self) -> frozenset[int]:
        """Ids that belong to pictures and may never be sampled: they would be taken for visual tokens."""
        added = self._tokenizer.get_added_vocab()
        named = {added[name] for name in _VISION_TOKENS if name in added}
        return frozenset(named | {self.image_token, self.video_token})

    def decoder(self) -> TextDecoder:
        """A fresh decoder for one answer."""
        return TextDecoder(self.token_bytes)


class TextDecoder:
    """Turns the tokens of one answer into text as they come."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that this token completes; empty inside a multi-byte character."""
        return self._utf8.decode(self._token_bytes(token))

    def finish(self) -> str:
        """What is left when the answer ends: a replacement character where one was cut off, else nothing."""
        return self._utf8.decode(b"", final=True)


def load_tokenizer(folder: Path, *, image_token: int, video_token: int) -> Tokenizer:
    """The tokenizer of a checkpoint folder; also reads what ends an answer.

    Args:
        folder: Of the checkpoint.
        image_token: Id of a visual token of an image, from the model's configuration.
        video_token: Id of a visual token of a video, from the model's configuration.

    Raises:
        EngineError: No tokenizer in the folder, or one that cannot be used with this model.
    """
    if not (folder / "tokenizer.json").is_file() and not (
        (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    ):
        raise EngineError(
            f"{folder} has no tokenizer: put tokenizer.json (or vocab.json and merges.txt) "
            "of its base model there"
        )
    check_tokenizer_files(folder)
    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        eos = _ids(found.eos_token_id) | _ids(_generation_config(folder).get("eos_token_id"))
    except Exception as error:  # the libraries raise many kinds for a broken file, bare Exception among them
        raise EngineError(
            f"the tokenizer in {folder} cannot be read: {' '.join(str(error).split())[:300]}"
        ) from error
    tokenizer = Tokenizer(
        cast("_HubTokenizer", found), image_token=image_token, video_token=video_token, eos=eos
    )
    if not eos:
        raise EngineError(
            f"no file in {folder} says which token ends an answer: give tokenizer_config.json an eos_token"
        )
    if max(image_token, video_token) >= len(tokenizer) or not _speaks_bytes(tokenizer):
        raise EngineError(
            f"the tokenizer in {folder} ({len(tokenizer)} tokens) is not the one this model learned: "
            "copy the tokenizer files of its base model"
        )
    return tokenizer


def _speaks_bytes(tokenizer: Tokenizer) -> bool:
    """Whether the vocabulary is byte-level, as every Qwen2 tokenizer is."""
    sample = "a é 猫"
    try:
        return b"".join(map(tokenizer.token_bytes, tokenizer.encode(sample))) == sample.encode()
    except Exception:  # transformers keeps what its configuration says unchecked, until a text is encoded
        return False


def _generation_config(folder: Path) -> dict[str, object]:
    path = folder / "generation_config.json"
    remedy = "copy it from the base model again"
    return read_json_object(path, remedy=remedy, error=EngineError) if path.is_file() else {}


def _ids(value: object) -> frozenset[int]:
    """Ids from a configuration entry: a number, a list of them, or nothing."""
    return frozenset(
        item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int)
    )


def _byte_letters() -> dict[str, int]:
    """What byte-level BPE writes for each byte: itself if printable, else a letter from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_letters()
