"""Guided answers: their form is certain, reasoning ends in time, answers can be taken back."""

from __future__ import annotations

import logging
import sys

import pytest
import torch
from guided import (
    ASK,
    BOX,
    GROUND,
    INTENT,
    PADDING,
    SHARES,
    THINKING,
    WHEN,
    allowed,
    follow,
    matcher,
    matchers,
    may_end,
    nano_tokenizer,
    next_texts,
    write,
)

from egolive.assistant.prompts.grammar import GrammarMatchers
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.profiles import EGOTHINKER_V1, NANO, Profile


@pytest.mark.parametrize(
    ("profile", "question", "text", "through"),
    [
        (NANO, GROUND, "<|box_start|>(12,1001),", "<|box_start|>(12,100"),
        (NANO, GROUND, "<|box_start|>(012,", "<|box_start|>(0"),
        (NANO, GROUND, "(12,34),(56,78)", ""),
        (NANO, GROUND, "[1, 2, 3, 4]", ""),
        (NANO, GROUND, "<|object_ref_start|>cup", ""),
        (NANO, WHEN, "(1.25,", "(1.2"),
        (NANO, WHEN, "(1,2)", "(1"),
        (SHARES, GROUND, "<|box_start|>(2", "<|box_start|>("),
        (SHARES, WHEN, "(1.0,", "(1"),
        (EGOTHINKER_V1, GROUND, "[0.5, 300", "[0.5, "),
        (EGOTHINKER_V1, GROUND, "[1, 2, 3]", "[1, 2, 3"),
        (EGOTHINKER_V1, WHEN, "(1 to 2)", "(1"),
    ],
)
def test_what_is_malformed_is_stopped_where_it_goes_wrong(
    profile: Profile, question: Question, text: str, through: str
) -> None:
    assert follow(matcher(profile, question), text, nano_tokenizer()) == through


def test_an_answer_ends_only_when_it_is_complete() -> None:
    tokenizer = nano_tokenizer()
    of = matcher(NANO, GROUND)
    for token in tokenizer.encode(BOX):
        assert not of.finished
        assert not tokenizer.eos & allowed(of, tokenizer)
        of.accept(token)
    assert may_end(of, tokenizer)
    assert not of.finished
    of.accept(min(tokenizer.eos))
    assert of.finished


def test_after_the_end_nothing_is_masked_and_nothing_accepted() -> None:
    tokenizer = nano_tokenizer()
    of = matcher(NANO, GROUND)
    write(of, "none")
    of.accept(min(tokenizer.eos))
    logits = torch.arange(8.0)
    of.mask(logits)
    assert logits.tolist() == list(range(8))
    with pytest.raises(ValueError, match="may not come next"):
        of.accept(tokenizer.encode("1")[0])


def test_a_box_begins_with_its_token_and_not_with_that_tokens_letters() -> None:
    tokenizer = nano_tokenizer()
    assert tokenizer.encode("<")[0] not in allowed(matcher(NANO, GROUND), tokenizer)
    of = matcher(NANO, GROUND)
    write(of, "<|box_start|>(1,2),(3,4)")
    assert allowed(of, tokenizer) == set(tokenizer.encode("<|box_end|>"))


def test_rows_beyond_the_vocabulary_and_control_tokens_never_come() -> None:
    tokenizer = nano_tokenizer()
    of = matcher(THINKING, INTENT, think=True)
    write(of, "<think>well")
    some = allowed(of, tokenizer)
    assert len(some) > 400
    assert max(some) < len(tokenizer)
    assert not some & (tokenizer.eos | tokenizer.vision_tokens)
    assert not some & set(tokenizer.encode("<|im_start|>") + tokenizer.encode("<|endoftext|>"))


def test_logits_of_what_may_come_stay_as_they_are() -> None:
    tokenizer = nano_tokenizer()
    logits = torch.randn(len(tokenizer) + PADDING, generator=torch.Generator().manual_seed(1))
    before = logits.clone()
    of = matcher(NANO, GROUND)
    of.mask(logits)
    some = sorted(allowed(of, tokenizer))
    assert torch.equal(logits[some], before[some])
    assert int(torch.isfinite(logits).sum()) == len(some)


def test_more_than_was_accepted_cannot_be_taken_back() -> None:
    of = matcher(NANO, GROUND)
    write(of, "<|box_start|>(1")
    with pytest.raises(ValueError, match="4 tokens cannot be taken back, 3 were"):
        of.rollback(4)
    with pytest.raises(ValueError, match="cannot be taken back"):
        of.rollback(-1)


def test_a_token_that_is_forbidden_changes_nothing() -> None:
    of = matcher(NANO, GROUND)
    write(of, "<|box_start|>(1")
    before = next_texts(of)
    with pytest.raises(ValueError, match="may not come next"):
        of.accept(nano_tokenizer().encode("x")[0])
    assert next_texts(of) == before
    write(of, "2,3),(4,5)<|box_end|>")


def test_answers_that_follow_the_same_grammar_do_not_share_their_place() -> None:
    first, second = matcher(NANO, GROUND), matcher(NANO, GROUND)
    write(first, "<|box_start|>(12,")
    assert b"<|box_start|>" in next_texts(second)
    write(second, "none")
    assert b"," not in next_texts(first)
    write(first, "3),(4,5)<|box_end|>")


@pytest.mark.parametrize("question", [GROUND, WHEN, INTENT, ASK], ids=lambda question: question.task)
def test_reasoning_is_closed_at_its_bound(question: Question) -> None:
    tokenizer = nano_tokenizer()
    of = matcher(THINKING, question, think=True, think_tokens=30)
    write(of, "<think>")
    filler = tokenizer.encode("1")[0]
    count = len(tokenizer.encode("<think>"))
    while filler in allowed(of, tokenizer):
        of.accept(filler)
        count += 1
    assert count == 30
    assert next_texts(of) <= {b"</think>"[:n] for n in range(1, 9)}
    write(of, "</think>")
    assert next_texts(of) <= {b"<answer>"[:n] for n in range(1, 9)} | {b" ", b"\n", b" <", b"\n\n"}


@pytest.mark.parametrize("begun", ["<", "</", "</thi", "</think"])
def test_a_closing_tag_that_is_begun_at_the_bound_is_finished(begun: str) -> None:
    tokens = nano_tokenizer().encode("<think>So" + begun)
    of = matcher(THINKING, GROUND, think=True, think_tokens=len(tokens))
    write(of, "<think>So" + begun)
    write(of, "</think>"[len(begun) :] + f"<answer>{BOX}</answer>")


def test_reasoning_that_ends_in_time_is_left_alone() -> None:
    text = f"<think>On the left, 2 < 3.</think>\n\n<answer>{BOX}</answer>"
    bound = len(nano_tokenizer().encode(text.partition("\n")[0]))
    for spare in (0, 1, 100):
        of = matcher(THINKING, GROUND, think=True, think_tokens=bound + spare)
        write(of, text)
        assert may_end(of, nano_tokenizer())


def test_a_bound_shorter_than_the_opening_tag_waits_for_it() -> None:
    of = matcher(THINKING, GROUND, think=True, think_tokens=0)
    write(of, f"<think></think><answer>{BOX}</answer>")
    of = matcher(THINKING, GROUND, think=True, think_tokens=0)
    write(of, "<think>")
    assert next_texts(of) <= {b"</think>"[:n] for n in range(1, 9)}


def test_words_after_reasoning_are_free() -> None:
    of = matcher(EGOTHINKER_V1, ASK, think=True)
    write(of, f"<think>Hm.</think><answer>A cup, {BOX}, and 一杯茶 🍵.</answer>")
    assert may_end(of, nano_tokenizer())


def test_words_without_reasoning_need_no_guide() -> None:
    for question in (INTENT, Question("next"), ASK):
        assert matchers(EGOTHINKER_V1).matcher(question, think=False) is None
        assert matchers(NANO).matcher(question, think=True) is None


def test_a_model_that_never_learned_to_reason_is_not_made_to() -> None:
    of = matchers(NANO).matcher(GROUND, think=True)
    assert of is not None
    assert b"<|box_start|>" in next_texts(of)


def test_without_xgrammar_answers_are_free_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "xgrammar", None)
    with caplog.at_level(logging.WARNING):
        free = GrammarMatchers(nano_tokenizer(), EGOTHINKER_V1)
    assert free.matcher(GROUND, think=True) is None
    assert "xgrammar cannot be imported" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_mask_is_the_same_on_a_gpu() -> None:
    tokenizer = nano_tokenizer()
    of = matcher(NANO, GROUND)
    logits = torch.zeros(len(tokenizer) + PADDING, device="cuda")
    of.mask(logits)
    assert set(torch.isfinite(logits).nonzero().flatten().tolist()) == allowed(of, tokenizer)
