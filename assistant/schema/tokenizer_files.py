"""The files of a tokenizer, checked before transformers reads them: a checkpoint may come from others."""

from __future__ import annotations

import re
from pathlib import Path

from egolive.streaming.errors import EngineError
from egolive.streaming.json_files import read_at_most, read_json_object

__all__ = ["MOST_BYTES", "TOKENIZER_FILES", "check_tokenizer_files"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
"""What `Tokenizer` is read from, where it is there."""
_TOKENIZERS = frozenset(
    ("Qwen2Tokenizer", "Qwen2TokenizerFast", "TokenizersBackend", "PreTrainedTokenizerFast")
)
"""Classes that read `TOKENIZER_FILES` and nothing else."""
_ELSEWHERE = re.compile("fast_tokenizer_files|init_inputs|vocab|merges|tokenizer_object|.*_file")
"""Keys of a tokenizer's configuration that name other files, or stand for what is in them."""
MOST_BYTES = 64 * 1024**2
"""Bytes of a file of a tokenizer; that of Qwen2-VL has 11 MB."""


def check_tokenizer_files(folder: Path) -> None:
    """Check a tokenizer's files before transformers reads them.

    Raises:
        EngineError: One is no JSON within limits, or asks for another file, class or package.
    """
    remedy = "copy the tokenizer files of its base model"
    for name in TOKENIZER_FILES:
        path = folder / name
        if not path.is_file():
            continue
        if path.suffix != ".json":
            read_at_most(path, MOST_BYTES, where=f"{path} cannot be read", remedy=remedy, error=EngineError)
            continue
        values = read_json_object(path, remedy=remedy, most=MOST_BYTES, error=EngineError)
        if name != "tokenizer_config.json":
            continue
        kind = values.get("tokenizer_class", "Qwen2Tokenizer")
        if not isinstance(kind, str) or kind not in _TOKENIZERS:
            raise EngineError(
                f"{path} asks for a tokenizer of class {kind!r:.60}, which is not read; {remedy}"
            )
        for key, value in values.items():
            if _ELSEWHERE.fullmatch(key) and value is not None:
                raise EngineError(f"{path} has {key!r:.60}, which leads to other files; {remedy}")
