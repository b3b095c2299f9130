"""Guides over the bundled vocabulary, and ways to write through them as a model would."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import torch
from paths import ROOT

from egolive.assistant.prompts.grammar import GrammarMatchers, XGrammarMatcher
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.profiles import EGOTHINKER_V1, NANO, Profile
from egolive.assistant.schema.tokenizer import Tokenizer, load_tokenizer

NANO_FOLDER = ROOT / "assistant" / "nano"
GROUND = Question("ground", "cup")
WHEN = Question("when", "pour the water")
INTENT = Question("intent")
ASK = Question("ask", "what is this?")
PADDING = 17
"""Rows that a model's output has beyond its vocabulary."""
THINKING = replace(NANO, name="thinking", think_prompts=EGOTHINKER_V1.think_prompts)
SHARES = replace(NANO, name="shares", unit="norm1", time_decimals=0)
PIXELS = replace(EGOTHINKER_V1, name="pixels", unit="pixels")
PROFILES = [NANO, EGOTHINKER_V1, THINKING, SHARES, PIXELS]
BOX = "<|box_start|>(12,345),(678,1000)<|box_end|>"


@cache
def nano_tokenizer() -> Tokenizer:
    config = json.loads((NANO_FOLDER / "config.json").read_text())
    image, video = config["image_token_id"], config["video_token_id"]
    return load_tokenizer(NANO_FOLDER, image_token=image, video_token=video)


@cache
def matchers(profile: Profile) -> GrammarMatchers:
    return GrammarMatchers(nano_tokenizer(), profile)


def matcher(profile: Profile, question: Question, think: bool = False, **bound: int) -> XGrammarMatcher:
    found = matchers(profile).matcher(question, think, **bound)
    assert found is not None
    return found


def masked(of: XGrammarMatcher, tokenizer: Tokenizer) -> torch.Tensor:
    logits = torch.zeros(len(tokenizer) + PADDING)
    of.mask(logits)
    return logits


def allowed(of: XGrammarMatcher, tokenizer: Tokenizer) -> set[int]:
    return set(torch.isfinite(masked(of, tokenizer)).nonzero().flatten().tolist())


def next_texts(of: XGrammarMatcher) -> set[bytes]:
    tokenizer = nano_tokenizer()
    return {tokenizer.token_bytes(token) for token in allowed(of, tokenizer)}


def follow(of: XGrammarMatcher, text: str, tokenizer: Tokenizer) -> str:
    """Write a text through a guide as a model would that is sure of it; what of it was let through."""
    done: list[int] = []
    for token in tokenizer.encode(text):
        if masked(of, tokenizer)[token].isinf():
            break
        of.accept(token)
        done.append(token)
    return tokenizer.decode(done)


def write(of: XGrammarMatcher, text: str) -> None:
    assert follow(of, text, nano_tokenizer()) == text


def may_end(of: XGrammarMatcher, tokenizer: Tokenizer) -> bool:
    return tokenizer.eos <= allowed(of, tokenizer)


def drawn(of: XGrammarMatcher, seed: int, most: int = 6000) -> list[int]:
    """An answer drawn from random logits, perhaps a long list; without the token that ends it."""
    tokenizer = nano_tokenizer()
    generator = torch.Generator().manual_seed(seed)
    # A label of box tokens is free text: only this one token ends it, which chance alone seldom draws.
    leave_label = tokenizer.encode("<|object_ref_end|>")[0]
    tokens: list[int] = []
    while not of.finished and len(tokens) < most:
        logits = 4 * torch.randn(len(tokenizer) + PADDING, generator=generator)
        logits[leave_label] += 8
        of.mask(logits)
        assert torch.isfinite(logits).any()
        token = int(logits.softmax(0).multinomial(1, generator=generator))
        of.accept(token)
        tokens.append(token)
    assert of.finished
    assert tokens.pop() in tokenizer.eos
    return tokens
