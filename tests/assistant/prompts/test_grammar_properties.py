"""What must hold of guided answers whatever a model says: drawn ones, rendered ones, recorded ones."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from examples import few
from guided import (
    GROUND,
    PROFILES,
    THINKING,
    WHEN,
    allowed,
    drawn,
    follow,
    matcher,
    may_end,
    nano_tokenizer,
    write,
)
from hypothesis import given
from hypothesis import strategies as st
from paths import REAL, needs_real

from egolive.assistant.prompts.grammar import GrammarMatchers
from egolive.assistant.prompts.parsing import parse
from egolive.assistant.prompts.prompts import render_answer
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.profiles import EGOTHINKER_V1, NANO, Profile
from egolive.assistant.schema.tokenizer import Tokenizer, load_tokenizer
from egolive.streaming.frames import Box, Interval

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
def real_tokenizer() -> Tokenizer:
    folder = REAL / "processor" / "qwen2_vl"
    config = json.loads((folder / "config.2b.json").read_text())
    image, video = config["image_token_id"], config["video_token_id"]
    return load_tokenizer(folder, image_token=image, video_token=video)


@cache
def real_guides() -> GrammarMatchers:
    return GrammarMatchers(real_tokenizer(), EGOTHINKER_V1)


def has_form_without_sense(question: Question, text: str) -> bool:
    """Whether a text holds an empty box or a reversed interval: well-formed, and yet no answer."""
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]
    if question is GROUND:
        corners = zip(*(numbers[start::4] for start in range(4)), strict=True)
        return any(x1 == x2 or y1 == y2 for x1, y1, x2, y2 in corners)
    return any(start > end for start, end in zip(numbers[0::2], numbers[1::2], strict=True))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
@given(seed=st.integers(0, 2**32), question=st.sampled_from([GROUND, WHEN]), think=st.booleans())
@few(15)
def test_a_model_that_knows_nothing_still_writes_answers_that_can_be_read(
    profile: Profile, seed: int, question: Question, think: bool
) -> None:
    think = think and profile.think_prompts is not None
    tokens = drawn(matcher(profile, question, think, think_tokens=24), seed)
    text = nano_tokenizer().decode(tokens)
    answer = parse(text, question, profile, source_size=(640, 480), seen_size=(100_000, 100_000))
    body = re.sub(r"<\|object_ref_start\|>[^<]*", "", text.rpartition("</think>")[2])
    read = answer.absent or answer.boxes or answer.intervals
    assert read or has_form_without_sense(question, body)
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
@few(15)
def test_whatever_training_writes_is_let_through_unchanged(profile: Profile, data: st.DataObject) -> None:
    answer = data.draw(known_answers(profile))
    text = render_answer(profile, answer, source_size=(640, 480), seen_size=(224, 140))
    of = matcher(profile, answer.question, think=answer.question.think)
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
            of = real_guides().matcher(question, think=False)
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
                    of = real_guides().matcher(question, think)
                    assert of is not None
                    assert follow(of, whole, tokenizer) == whole
                    assert may_end(of, tokenizer)
                    checked += 1
    assert checked > 40


@pytest.mark.parametrize("profile", [NANO, EGOTHINKER_V1, THINKING], ids=lambda profile: profile.name)
@given(seed=st.integers(0, 2**32), data=st.data())
@few(15)
def test_rolling_back_and_going_on_is_as_if_nothing_had_been(
    profile: Profile, seed: int, data: st.DataObject
) -> None:
    tokenizer = nano_tokenizer()
    think = profile.think_prompts is not None
    bound = {"think_tokens": 16}
    path = [*drawn(matcher(profile, GROUND, think, **bound), seed), min(tokenizer.eos)]
    fresh = matcher(profile, GROUND, think, **bound)
    masks = []
    for token in path:
        masks.append(allowed(fresh, tokenizer))
        fresh.accept(token)
    of = matcher(profile, GROUND, think, **bound)
    place = 0
    for target in data.draw(st.lists(st.integers(0, len(path)), max_size=8)):
        for token in path[place:target]:
            of.accept(token)
        of.rollback(max(0, place - target))
        place = target
        assert of.finished == (place == len(path))
        if place < len(path):
            assert allowed(of, tokenizer) == masks[place]
