"""What the parser is fuzzed with: answers as models write them, and what must hold whatever they become."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from egolive.assistant.prompts.parsing import parse
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.profiles import EGOTHINKER_V1, NANO
from egolive.benchmarks.robustness.fuzz_mutate import mutate_text
from egolive.streaming.errors import DataError
from egolive.streaming.frames import Interval

__all__ = ["ANSWERS", "fuzz_parser", "read_answers"]

_SIZE = (640, 480)
_WINDOW = Interval(100.0, 108.0)
_QUESTIONS = [
    Question("ground", "cup"),
    Question("when", "pour the water"),
    Question("ask", "what is this?"),
    Question("intent"),
    Question("next", think=True),
]
_PROFILES = [EGOTHINKER_V1, NANO, replace(NANO, name="pixels", unit="pixels"), replace(NANO, unit="norm1")]

ANSWERS = [
    "<|object_ref_start|>cup<|object_ref_end|><|box_start|>(120,300),(400,500)<|box_end|><|im_end|>",
    "<|ref|>the cup<|/ref|><|det|>[[120, 300, 400, 500], [1, 2, 3, 4]]<|/det|>",
    "<ref>mug</ref><box>(120,300),(400,500)</box>",
    "<think>I see [7, 8, 9, 10]</think><answer>[120, 300, 400, 500]</answer>",
    "<think>The cup stands left. <answer>[0.12, 0.30, 0.40, 0.50]</answer></think>",
    "<think>It goes on and on and",
    "</think>make tea</answer>",
    '```json\n[{"bbox_2d": [120, 300, 400, 500], "label": "mug"}, {"x1": 1, "y1": 2, "x2": 3, "y2": 4}]\n```',
    '{"objects": [{"name_en": "lid", "box": "310 94 658 132"}, {"category": "cup", "bbox": [1, 2, 3]}]}',
    "{'bbox': '310 94 658 132', 'label': 'mug'}",
    '{"answer": "{\\"bbox_2d\\": [1, 2, 3, 4], \\"label\\": \\"a\\"}"}',
    '{"xmin": 10, "ymin": 20, "xmax": 300, "ymax": 400, "color": [1, 2, 3, 4], "point_2d": [5, 6]}',
    "The hand is at (0.1, 0.2) to the bottom right (0.4, 0.5).",
    "[[120, 300], [400, 500]]",
    "120, 300, 400, 500",
    "left=3 top=4 right=50 bottom=60",
    "<think>early</think><answer>(2.00,5.50)</answer>",
    '{"time": [2.0, 5.5], "boxes": {"6": [670, 277, 998, 998], "7": [671, 270, 990, 990]}}',
    '{"start": "00:02", "end": "00:05.50", "timestamps": [[1, 2], [3, 4]]}',
    "It starts at 00:02.50 and ends at 00:05.",
    "From 1 to 2 minutes, then at about 1:02:03, frame 12, until the end.",
    "between 2.5 s - 4 s; 5 seconds",
    "start time = 2 end time: 4",
    "There is no cup in the picture.",
    "The hands are empty.",
    "I can't see any mug here.",
    "none",
    "{}",
    "[]",
    '{"bbox_2d": null}',
    "make tea",
    "<answer>pour the water into the cup</answer",
    "It is a mug at <|box_start|>(1,2),(3,4)<|box_end|> beside a kettle.",
]


def fuzz_parser(random: Random, answers: Sequence[str]) -> None:
    """Parse one mutated answer to some question under some profile.

    Raises:
        AssertionError: What was read lies outside of what can be.
    """
    text = mutate_text(random.choice(answers), random, answers)
    probable = [(piece, random.random()) for piece in (text[: len(text) // 2], text[len(text) // 2 :])]
    answer = parse(
        text,
        random.choice(_QUESTIONS),
        random.choice(_PROFILES),
        source_size=_SIZE,
        seen_size=random.choice([None, (224, 140)]),
        window=random.choice([None, _WINDOW]),
        time=108.0,
        token_probs=random.choice([None, probable, [("else", 0.5)]]),
    )
    for box in answer.boxes:
        assert 0 <= box.x1 < box.x2 <= _SIZE[0], f"across: {tuple(box)}"
        assert 0 <= box.y1 < box.y2 <= _SIZE[1], f"down: {tuple(box)}"
        assert box.score is None or 0 <= box.score <= 1, f"score {box.score}"
    for stretch in answer.intervals:
        inside = answer.window is None or _WINDOW.start <= stretch.start <= stretch.end <= _WINDOW.end
        assert inside, f"{stretch} is outside of the window"
    assert not (answer.absent and (answer.boxes or answer.intervals)), "absent, but found"


def read_answers(path: Path) -> list[str]:
    """Recorded answers of a model: the key "text" of each line of JSON.

    Raises:
        DataError: They cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [str(json.loads(line)["text"])[:4000] for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no answers, one JSON object with text a line ({error})") from error
