"""Multiple choice and yes-no questions: their published row forms, and the letter that an answer chooses.

An answer counts by what it chooses, never by what it happens to hold: the article "a" is not option A, an
answer that names two options names none, and an empty one is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from egolive.streaming.frames import Interval
from egolive.train.rows import Row, RowError, row_from_dict

__all__ = ["Choice", "choice_from_dict", "letter_of", "options_in", "said_yes", "yes_or_no_from_dict"]

LETTERS = "ABCDEFGH"
_ASK = "Answer with the letter of the best option."
_OPTION_LINE = re.compile(r"^[ \t]*(?:Option[ \t]+)?\(?([A-H])[).:][ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_MARKS = r"[(\[{*\"']{0,4}"
_SECOND = r"(?!\W{0,4}\s*(?:or|and|/|,)\s*(?:option\s+)?[(\[]?[A-H](?![\w']))"
"""No other option right behind it."""
_ALONE = re.compile(
    r"(?:the\s+)?(?:correct\s+|best\s+)?(?:(?:answer|option|choice)\s*(?:is|:)?\s*)?\W*([a-h])\W*",
    re.IGNORECASE,
)
_LEADING = re.compile(r"\W*(?:(?:option|answer|choice)\s*(?:is|:)?\s*)?([A-Ha-h])[)\].:*]{1,3}(?:\s+|$)")
_MARKED = re.compile(r"(?:^|[\s(\[*])([A-H])[)\].:*]{1,3}(?=\s|$)")
_STATED = re.compile(
    r"(?:\b(?:answer|option|choice)\b(?:\s+(?:is|would\s+be|must\s+be|should\s+be)|\s*:)\s*|"
    r"\b(?:choose|select|pick|go\s+with)\s+)(?:option\s+)?" + _MARKS + r"([A-H])(?![\w'])" + _SECOND
)
_AFFIRMED = re.compile(r"(?<![\w'])([A-H])[)\]*]{0,3}\s+is\s+(?:the\s+)?(?:correct|best|right|answer)")
_LETTER = re.compile(r"(?<![\w'])([A-H])(?![\w'])")
_ARTICLE = re.compile(r"\s+(?!(?:or|and|is|because|since)\b)[a-z]")
_NEGATED = re.compile(r"\bnot\b|n't\b|\bneither\b", re.IGNORECASE)
_YES = re.compile(r"\W*(?:(?:the\s+)?answer\s*(?:is|:)\s*)?(yes|no)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Choice:
    """A question with options: what is shown, the words of the question, and the right letter."""

    row: Row
    """What is shown."""
    text: str
    """The whole question, options included."""
    options: Mapping[str, str]
    """Letters to words, in order."""
    letter: str
    """The right one."""


def choice_from_dict(values: Mapping[str, Any], *, where: str) -> Choice | None:
    """Read a multiple-choice row of EgoTaskQA, EgoPlan, EgoSchema, VLN-QA, QAEgo4D or EgoExoLearn.

    Where a row brings a question and its options, they are put into this project's words; where it brings a
    whole prompt, that is asked as it stands.

    Returns:
        None where the row is of none of these forms.

    Raises:
        RowError: it is, and something in it cannot be right.
    """
    try:
        if "q" in values and "option" in values:
            options = {str(key).strip().upper(): str(text) for key, text in values["option"].items()}
            return _made(values["q"], options, values["a"], where, video=values["video_path"])
        if "golden_choice_idx" in values:
            return _egoplan(values, where)
        if "option 0" in values or isinstance(values.get("option"), list):
            return _egoschema(values, where)
        if "gt" in values and "text" in values:
            video = values.get("video", values.get("video_path"))
            row = Row(where=where, videos=(str(video),), stretch=_stretch(values, where))
            text = str(values["text"])
            return _checked(row, text, options_in(text), values["gt"], where)
        if "conversations" in values:
            return _conversation(values, where)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RowError(where, "a value is missing or of the wrong kind", str(error)) from error
    return None


def yes_or_no_from_dict(values: Mapping[str, Any], *, where: str) -> Choice | None:
    """Read a row that asks whether something is in a picture, as POPE does; the letter is "yes" or "no".

    Returns:
        None where the row is of another form.

    Raises:
        RowError: no such answer, or no question.
    """
    said = values.get("label", values.get("answer"))
    text = values.get("text", values.get("question"))
    if "image" not in values or not isinstance(said, str) or not isinstance(text, str):
        return None
    letter = said_yes(said)
    if not letter or not text.strip():
        raise RowError(where, "not a question of yes or no")
    row = Row(where=where, images=(str(values["image"]),))
    return Choice(row, f"{text.strip()} Answer yes or no.", {"yes": "yes", "no": "no"}, letter)


def letter_of(answer: str, options: Mapping[str, str]) -> str:
    """The letter that an answer chooses; empty where it chooses none, or more than one.

    Args:
        answer: without reasoning and tags.
        options: letters to words.
    """
    said = " ".join(answer.split())
    if alone := _ALONE.fullmatch(said):
        found = alone[1].upper()
    elif leading := _LEADING.match(said):
        found = _led(leading[1].upper(), said[leading.end() :], options)
    elif stated := (_STATED.findall(said) or _AFFIRMED.findall(said)):
        found = stated[0] if len(set(stated)) == 1 else ""
    else:
        found = _by_words(said, options) or _only_letter(said)
    return found if found in options else ""


def said_yes(answer: str) -> str:
    """The word "yes" or "no" that an answer begins with; else empty."""
    found = _YES.match(answer)
    return found[1].lower() if found else ""


def options_in(text: str) -> dict[str, str]:
    """The options that stand in a prompt, one a line: "A: ...", "(A) ..." or "A. ..."; letters in order."""
    options: dict[str, str] = {}
    for letter, words in _OPTION_LINE.findall(text):
        if letter == LETTERS[len(options)]:
            options[letter] = words
    return options


def _by_words(said: str, options: Mapping[str, str]) -> str:
    """The option whose words the answer is."""
    words = re.sub(r"^(?:the\s+)?answer(?:\s+is)?\s*:?\s*", "", said, flags=re.IGNORECASE)
    same = [letter for letter, text in options.items() if _plain(text) == _plain(words)]
    return same[0] if len(same) == 1 else ""


def _led(letter: str, rest: str, options: Mapping[str, str]) -> str:
    """The letter that an answer begins with, unless it goes on to list others."""
    others = set(_MARKED.findall(rest)) - {letter}
    return "" if others and _plain(rest) != _plain(options.get(letter, "")) else letter


def _only_letter(said: str) -> str:
    """A letter that begins or ends the answer, where no other is named and nothing is denied."""
    letters = [
        found
        for found in _LETTER.finditer(said)
        if not (found[1] == "A" and _ARTICLE.match(said, found.end()))
    ]
    if len({found[1] for found in letters}) != 1 or _NEGATED.search(said):
        return ""
    first, last = letters[0], letters[-1]
    at_an_end = not said[: first.start()].strip(" ([*\"'") or not said[last.end() :].strip(" .)]}*\"'!")
    return first[1] if at_an_end else ""


def _plain(text: str) -> str:
    return " ".join(text.split()).strip(" .").casefold()


def _egoplan(values: Mapping[str, Any], where: str) -> Choice:
    video = values.get("video_path") or values.get("video_basename")
    video = video or f"{str(values['sample_id']).rpartition('_')[0]}.mp4"
    rate = _frame_rate(str(video))
    start, end = (values[key] / rate for key in ("task_start_frame", "current_observation_frame"))
    options = {letter: str(values[f"choice_{letter.lower()}"]) for letter in "ABCD"}
    question = (
        f"The wearer of this camera wants to {values['task_goal']}. The video shows what was done for it, "
        "up to now. What should be done next?"
    )
    return _made(question, options, values["golden_choice_idx"], where, video=video, clip=(start, end))


def _frame_rate(video: str) -> float:
    """Frames a second of the videos of EgoPlan: Ego4D's 30; EPIC's 59.94, and 50 in its extension."""
    name = re.match(r"P\d\d_(\d{2,3})\b", video.rpartition("/")[2])
    if name is None:
        return 30.0
    return 50.0 if len(name[1]) == 3 else 60_000 / 1001


def _egoschema(values: Mapping[str, Any], where: str) -> Choice:
    texts = values.get("option") or [values[f"option {number}"] for number in range(5)]
    # Some copies of the set repeat the letter inside the option.
    options = {
        letter: re.sub(rf"^\(?{letter}[).:]\s*", "", str(text))
        for letter, text in zip(LETTERS, texts, strict=False)
    }
    answer = values.get("answer", values.get("truth"))
    if answer is None:
        raise RowError(where, "no true answer: EgoSchema gives one for 500 questions only")
    letter = str(answer)
    if letter.isdecimal():
        letter = LETTERS[int(letter)]
    video = values.get("video_idx", values.get("q_uid", values.get("video")))
    name = str(video) if str(video).endswith(".mp4") else f"{video}.mp4"
    return _made(values["question"], options, letter, where, video=name)


def _conversation(values: Mapping[str, Any], where: str) -> Choice | None:
    row = row_from_dict(values, where=where)
    if [turn.role for turn in row.turns] != ["user", "assistant"]:
        return None
    text = re.sub(r"<(?:video|image)>\n?", "", row.turns[0].text)
    options = options_in(text)
    if not options:
        return None
    said = row.turns[1].text
    return _checked(row, text, options, said if said in options else _by_words(said, options), where)


def _made(
    question: object,
    options: Mapping[str, str],
    letter: object,
    where: str,
    *,
    video: object,
    clip: tuple[float, float] | None = None,
) -> Choice:
    lines = "\n".join(f"({letter}) {text}" for letter, text in options.items())
    row = Row(where=where, videos=(str(video),), stretch=Interval(*clip) if clip else None)
    return _checked(row, f"{question}\n{lines}\n{_ASK}", options, letter, where)


def _checked(row: Row, text: str, options: Mapping[str, str], letter: object, where: str) -> Choice:
    right = str(letter).strip().upper()
    if len(options) < 2:
        raise RowError(where, "fewer than two options")
    if right not in options:
        raise RowError(where, "the true answer is none of the options", str(letter))
    return Choice(row, text, options, right)


def _stretch(values: Mapping[str, Any], where: str) -> Interval | None:
    start, end = values.get("start"), values.get("end")
    if start is None or end is None:
        return None
    if not 0 <= start < end:
        raise RowError(where, "a stretch of time ends before it starts", f"{start} to {end} s")
    return Interval(float(start), float(end))
