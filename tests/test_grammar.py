"""Guided answers: their form is certain, what was well-formed stays as it is, reasoning ends in time."""

from __future__ import annotations

import json
import logging
import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from egolive.assistant.answers import Answer, Question
from egolive.assistant.grammar import GrammarGuide, Guides
from egolive.assistant.parsing import parse
from egolive.assistant.profiles import EGOTHINKER_V1, NANO, Profile
from egolive.assistant.prompts import render_answer
from egolive.assistant.tokenizer import Tokenizer, load_tokenizer
from egolive.streaming.frames import Box, Interval

REAL = Path(__file__).parents[2] / "shared" / "real"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real material is not on this machine")

NANO_FOLDER = Path(__file__).parents[1] / "assistant" / "nano"
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

COORDINATE = r"(?:0|1000|[1-9]\d{0,2})"
SHARE = r"(?:[01]|0\.\d{1,6}|1\.0{1,6})"
RECORDED_FORM = re.compile(
    "|".join(
        form
        for n in (COORDINATE, SHARE)
        for form in (
            rf"\[{n}(, ?{n}){{3}}\]",
            rf"(<\|object_ref_start\|>[^<>\n]+<\|object_ref_end\|>)?"
            rf"<\|box_start\|>\({n},{n}\),\({n},{n}\)<\|box_end\|>(<\|im_end\|>)?",
        )
    )
)


@cache
def nano_tokenizer() -> Tokenizer:
    config = json.loads((NANO_FOLDER / "config.json").read_text())
    image, video = config["image_token_id"], config["video_token_id"]
    return load_tokenizer(NANO_FOLDER, image_token=image, video_token=video)


@cache
def real_tokenizer() -> Tokenizer:
    folder = REAL / "processor" / "qwen2_vl"
    config = json.loads((folder / "config.2b.json").read_text())
    image, video = config["image_token_id"], config["video_token_id"]
    return load_tokenizer(folder, image_token=image, video_token=video)


@cache
def guides(profile: Profile) -> Guides:
    return Guides(nano_tokenizer(), profile)


@cache
def real_guides() -> Guides:
    return Guides(real_tokenizer(), EGOTHINKER_V1)


def guide(profile: Profile, question: Question, think: bool = False, **bound: int) -> GrammarGuide:
    found = guides(profile).guide(question, think, **bound)
    assert found is not None
    return found


def allowed(of: GrammarGuide, tokenizer: Tokenizer) -> set[int]:
    logits = torch.zeros(len(tokenizer) + PADDING)
    of.mask(logits)
    return set(torch.isfinite(logits).nonzero().flatten().tolist())


def next_texts(of: GrammarGuide) -> set[bytes]:
    tokenizer = nano_tokenizer()
    return {tokenizer.token_bytes(token) for token in allowed(of, tokenizer)}


def follow(of: GrammarGuide, text: str, tokenizer: Tokenizer) -> str:
    """Write a text through a guide as a model would that is sure of it; what of it was let through."""
    done: list[int] = []
    for token in tokenizer.encode(text):
        if token not in allowed(of, tokenizer):
            break
        of.accept(token)
        done.append(token)
    return tokenizer.decode(done)


def write(of: GrammarGuide, text: str) -> None:
    assert follow(of, text, nano_tokenizer()) == text


def may_end(of: GrammarGuide, tokenizer: Tokenizer) -> bool:
    return tokenizer.eos <= allowed(of, tokenizer)


def drawn(of: GrammarGuide, seed: int, most: int = 600) -> list[int]:
    """An answer drawn from random logits; without the token that ends it."""
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


def has_form_without_sense(text: str) -> bool:
    """Whether a text holds an empty box or a reversed interval: well-formed, and yet no answer."""
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]
    fours = [numbers[i : i + 4] for i in range(0, len(numbers), 4)]
    if all(len(four) == 4 for four in fours) and any(a == c or b == d for a, b, c, d in fours):
        return True
    twos = zip(numbers[0::2], numbers[1::2], strict=False)
    return any(start > end for start, end in twos)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
@given(seed=st.integers(0, 2**32), question=st.sampled_from([GROUND, WHEN]), think=st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_model_that_knows_nothing_still_writes_answers_that_can_be_read(
    profile: Profile, seed: int, question: Question, think: bool
) -> None:
    think = think and profile.think_prompts is not None
    tokens = drawn(guide(profile, question, think, think_tokens=24), seed)
    text = nano_tokenizer().decode(tokens)
    answer = parse(text, question, profile, source_size=(640, 480), seen_size=(100_000, 100_000))
    body = text.rpartition("</think>")[2]
    assert answer.absent or answer.boxes or answer.intervals or has_form_without_sense(body)
    if "none" in body.lower():
        assert answer.absent
    assert think == ("<think>" in text)


@st.composite
def known_answers(draw: st.DrawFn, profile: Profile) -> Answer:
    task = draw(st.sampled_from(["ground", "when"]))
    question = replace(GROUND if task == "ground" else WHEN, think=profile.think_prompts is not None)
    if draw(st.integers(0, 5)) == 0:
        return Answer(question, "", absent=True, reasoning="It is not there: 1 < 2.")
    if task == "when":
        times = sorted(draw(st.lists(st.floats(0, 9000), min_size=2, max_size=6, unique=True)))
        pairs = zip(times[0::2], times[1::2], strict=False)
        return Answer(question, "", intervals=tuple(Interval(a, b) for a, b in pairs), reasoning="Seen.")
    boxes = []
    for _ in range(draw(st.integers(1, 3))):
        x1, x2 = sorted(draw(st.lists(st.floats(0, 640), min_size=2, max_size=2, unique=True)))
        y1, y2 = sorted(draw(st.lists(st.floats(0, 480), min_size=2, max_size=2, unique=True)))
        boxes.append(Box(x1, y1, x2, y2, "cup"))
    return Answer(question, "", boxes=tuple(boxes), reasoning="A cup\n\nstands </there>, on <the> table.")


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_whatever_training_writes_is_let_through_unchanged(profile: Profile, data: st.DataObject) -> None:
    answer = data.draw(known_answers(profile))
    text = render_answer(profile, answer, source_size=(640, 480), seen_size=(224, 140))
    of = guide(profile, answer.question, think=answer.question.think)
    write(of, text)
    assert may_end(of, nano_tokenizer())
    assert not of.finished


@cache
def recorded() -> list[dict[str, Any]]:
    lines = (REAL / "answers" / "real_answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@needs_real
def test_recorded_answers_pass_if_and_only_if_they_are_well_formed() -> None:
    tokenizer = real_tokenizer()
    passed = set()
    for row in recorded():
        if "<|image_pad|>" in row["text"]:
            continue  # a prompt was recorded with its answer
        for question in (GROUND, WHEN):
            of = real_guides().guide(question, think=False)
            assert of is not None
            text = row["text"].removesuffix("<|im_end|>")
            whole = follow(of, text, tokenizer) == text and may_end(of, tokenizer)
            wanted = question is GROUND and RECORDED_FORM.fullmatch(row["text"])
            assert whole == bool(wanted), (row["id"], question.task)
            if whole:
                passed.add(row["id"])
    assert {"a031", "a038"} <= passed


@needs_real
def test_recorded_boxes_and_times_pass_in_each_form_that_egothinker_knows() -> None:
    tokenizer = real_tokenizer()
    checked = 0
    for row in recorded():
        known = row["expected"] or {}
        boxes, spans = known.get("boxes", []), known.get("spans", [])
        texts = [(GROUND, f"[{', '.join(map(str, box))}]") for box in boxes]
        texts += [(GROUND, str(boxes))] * (len(boxes) > 1)
        texts += [(GROUND, "<|box_start|>({},{}),({},{})<|box_end|>".format(*box)) for box in boxes]
        texts += [(WHEN, f"({start:.2f},{end:.2f})") for start, end in spans]
        texts += [(WHEN, f"({start}, {end})") for start, end in spans]
        said = re.match(r"<think>(.*?)</think>", row["text"], re.DOTALL)
        reasoning = said[1] if said else "So."
        for question, text in texts:
            for tagged in (
                f"<think>{reasoning}</think><answer>{text}</answer>",
                f"<think>\n{reasoning}\n</think>\n\n<answer>\n{text}\n</answer>\n",
            ):
                for think, whole in ((False, text), (True, tagged)):
                    of = real_guides().guide(question, think)
                    assert of is not None
                    assert follow(of, whole, tokenizer) == whole
                    assert may_end(of, tokenizer)
                    checked += 1
    assert checked > 40


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
    assert follow(guide(profile, question), text, nano_tokenizer()) == through


def test_an_answer_ends_only_when_it_is_complete() -> None:
    tokenizer = nano_tokenizer()
    of = guide(NANO, GROUND)
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
    of = guide(NANO, GROUND)
    write(of, "none")
    of.accept(min(tokenizer.eos))
    logits = torch.arange(8.0)
    of.mask(logits)
    assert logits.tolist() == list(range(8))
    with pytest.raises(ValueError, match="may not come next"):
        of.accept(tokenizer.encode("1")[0])


def test_a_box_begins_with_its_token_and_not_with_that_tokens_letters() -> None:
    tokenizer = nano_tokenizer()
    assert tokenizer.encode("<")[0] not in allowed(guide(NANO, GROUND), tokenizer)
    of = guide(NANO, GROUND)
    write(of, "<|box_start|>(1,2),(3,4)")
    assert allowed(of, tokenizer) == set(tokenizer.encode("<|box_end|>"))


def test_rows_beyond_the_vocabulary_and_control_tokens_never_come() -> None:
    tokenizer = nano_tokenizer()
    of = guide(THINKING, INTENT, think=True)
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
    of = guide(NANO, GROUND)
    of.mask(logits)
    some = sorted(allowed(of, tokenizer))
    assert torch.equal(logits[some], before[some])
    assert int(torch.isfinite(logits).sum()) == len(some)


@pytest.mark.parametrize("profile", [NANO, EGOTHINKER_V1, THINKING], ids=lambda profile: profile.name)
@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=15, deadline=None)
def test_rolling_back_and_going_on_is_as_if_nothing_had_been(
    profile: Profile, seed: int, data: st.DataObject
) -> None:
    tokenizer = nano_tokenizer()
    think = profile.think_prompts is not None
    bound = {"think_tokens": 16}
    path = [*drawn(guide(profile, GROUND, think, **bound), seed), min(tokenizer.eos)]
    fresh = guide(profile, GROUND, think, **bound)
    masks = []
    for token in path:
        masks.append(allowed(fresh, tokenizer))
        fresh.accept(token)
    of = guide(profile, GROUND, think, **bound)
    place = 0
    for target in data.draw(st.lists(st.integers(0, len(path)), max_size=8)):
        for token in path[place:target]:
            of.accept(token)
        of.rollback(max(0, place - target))
        place = target
        assert of.finished == (place == len(path))
        if place < len(path):
            assert allowed(of, tokenizer) == masks[place]


def test_more_than_was_accepted_cannot_be_taken_back() -> None:
    of = guide(NANO, GROUND)
    write(of, "<|box_start|>(1")
    with pytest.raises(ValueError, match="4 tokens cannot be taken back, 3 were"):
        of.rollback(4)
    with pytest.raises(ValueError, match="cannot be taken back"):
        of.rollback(-1)


def test_a_token_that_is_forbidden_changes_nothing() -> None:
    of = guide(NANO, GROUND)
    write(of, "<|box_start|>(1")
    before = next_texts(of)
    with pytest.raises(ValueError, match="may not come next"):
        of.accept(nano_tokenizer().encode("x")[0])
    assert next_texts(of) == before
    write(of, "2,3),(4,5)<|box_end|>")


def test_answers_that_follow_the_same_grammar_do_not_share_their_place() -> None:
    first, second = guide(NANO, GROUND), guide(NANO, GROUND)
    write(first, "<|box_start|>(12,")
    assert b"<|box_start|>" in next_texts(second)
    write(second, "none")
    assert b"," not in next_texts(first)
    write(first, "3),(4,5)<|box_end|>")


@pytest.mark.parametrize("question", [GROUND, WHEN, INTENT, ASK], ids=lambda question: question.task)
def test_reasoning_is_closed_at_its_bound(question: Question) -> None:
    tokenizer = nano_tokenizer()
    of = guide(THINKING, question, think=True, think_tokens=30)
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
    of = guide(THINKING, GROUND, think=True, think_tokens=len(tokens))
    write(of, "<think>So" + begun)
    write(of, "</think>"[len(begun) :] + f"<answer>{BOX}</answer>")


def test_reasoning_that_ends_in_time_is_left_alone() -> None:
    text = f"<think>On the left, 2 < 3.</think>\n\n<answer>{BOX}</answer>"
    bound = len(nano_tokenizer().encode(text.partition("\n")[0]))
    for spare in (0, 1, 100):
        of = guide(THINKING, GROUND, think=True, think_tokens=bound + spare)
        write(of, text)
        assert may_end(of, nano_tokenizer())


def test_a_bound_shorter_than_the_opening_tag_waits_for_it() -> None:
    of = guide(THINKING, GROUND, think=True, think_tokens=0)
    write(of, f"<think></think><answer>{BOX}</answer>")
    of = guide(THINKING, GROUND, think=True, think_tokens=0)
    write(of, "<think>")
    assert next_texts(of) <= {b"</think>"[:n] for n in range(1, 9)}


def test_words_after_reasoning_are_free() -> None:
    of = guide(EGOTHINKER_V1, ASK, think=True)
    write(of, f"<think>Hm.</think><answer>A cup, {BOX}, and 一杯茶 🍵.</answer>")
    assert may_end(of, nano_tokenizer())


def test_words_without_reasoning_need_no_guide() -> None:
    for question in (INTENT, Question("next"), ASK):
        assert guides(EGOTHINKER_V1).guide(question, think=False) is None
        assert guides(NANO).guide(question, think=True) is None


def test_a_model_that_never_learned_to_reason_is_not_made_to() -> None:
    of = guides(NANO).guide(GROUND, think=True)
    assert of is not None
    assert b"<|box_start|>" in next_texts(of)


def test_without_xgrammar_answers_are_free_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "xgrammar", None)
    with caplog.at_level(logging.WARNING):
        free = Guides(nano_tokenizer(), EGOTHINKER_V1)
    assert free.guide(GROUND, think=True) is None
    assert "xgrammar cannot be imported" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_mask_is_the_same_on_a_gpu() -> None:
    tokenizer = nano_tokenizer()
    of = guide(NANO, GROUND)
    logits = torch.zeros(len(tokenizer) + PADDING, device="cuda")
    of.mask(logits)
    assert set(torch.isfinite(logits).nonzero().flatten().tolist()) == allowed(of, tokenizer)
