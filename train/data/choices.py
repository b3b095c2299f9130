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
from egolive.train.data.rows import Row, RowError, row_from_dict

__all__ = ["Choice", "choice_from_dict", "letter_of", "options_in", "said_yes", "yes_or_no_from_dict"]

LETTERS = "ABCDEFGH"
_ASK = "Answer with the letter of the best option."
_OPTION_LINE = re.compile(r"^[ \t]*(?:Option[ \t]+)?\(?([A-H])[).:][ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_EPIC_VIDEO = re.compile(r"(?:^|/)P\d\d_(\d{2,3})(?:\.mp4)?$", re.IGNORECASE)
_NAMED = r"(?:the\s+)?(?:(?:correct|best|right|final)\s+)?(?:answer|option|choice)\b"
"""Words that announce a letter."""
_GAP = r"[\s:*_\"'(\[{]{0,8}"
"""What may stand between those words and the letter; of limited length, as `_GAP` may follow `_GAP`."""
_SECOND = rf"(?!\W{{0,4}}\s*(?i:or|and|&|/|,)\s*(?i:option\b)?{_GAP}[A-H](?![\w']))"
"""No other option right behind it."""
_ALONE = re.compile(rf"\W{{0,8}}(?:{_NAMED}{_GAP}(?:is\b)?)?\W*([a-h])\W*", re.IGNORECASE)
_LEADING = re.compile(
    rf"\W*(?i:{_NAMED}{_GAP}(?:is\b)?{_GAP}(?:option\b)?)?{_GAP}([A-Ha-h]){_SECOND}[)\].:*]{{1,3}}(?:\s+|$)"
    r"(?!(?i:is\s+(?:not|wrong|incorrect)|isn't)\b)"
)
_LABELLED = re.compile(r"\W*option\b", re.IGNORECASE)
_MARKED = re.compile(r"(?:^|[\s(\[*])([A-H])[)\].:*]{1,3}(?=\s|$)")
_STATED = re.compile(
    r"(?i:\b(?:answer|option|choice)\b[\s*]{0,4}(?::|(?:is|would\s+be|must\s+be|should\s+be)\b)|"
    r"(?<!not )(?<!n't )\b(?:choose|select|pick|go\s+with)\b)"
    rf"{_GAP}(?i:option\b)?{_GAP}([A-H])(?![\w']){_SECOND}"
)
_AFFIRMED = re.compile(r"(?<![\w'])([A-H])[)\]*]{0,3}\s+(?i:is\s+(?:the\s+)?(?:correct|best|right|answer))")
_LETTER = re.compile(r"(?<![\w'])([A-H])(?![\w'])")
_ARTICLE = re.compile(r"\s+(?!(?i:or|and|is|as|but|for|since|because|due|which|here)\b)(?:[a-z]|[A-Z]{2})")
"""What follows an "A" that is the article; capitals are for "A TV" and for answers all in capitals."""
_NEGATED = re.compile(r"\bnot\b|n't\b|\bneither\b|\bis\s+(?:wrong|incorrect)\b", re.IGNORECASE)
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
            row = Row(where=where, videos=(str(values["video_path"]),))
            return _made(values["q"], options, values["a"], row)
        if "golden_choice_idx" in values:
            return _egoplan(values, where)
        if "option 0" in values or isinstance(values.get("option"), list):
            return _egoschema(values, where)
        if "gt" in values and "text" in values:
            video = values.get("video", values.get("video_path"))
            row = Row(where=where, videos=(str(video),), stretch=_stretch(values, where))
            text = str(values["text"])
            return _checked(row, text, options_in(text), values["gt"])
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
    found = _chosen(" ".join(answer.split()), options)
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


def _chosen(said: str, options: Mapping[str, str]) -> str:
    """The letter that is chosen, be it an option or not."""
    if alone := _ALONE.fullmatch(said):
        return alone[1].upper()
    if leading := _LEADING.match(said):
        letter, rest = leading[1].upper(), said[leading.end() :]
        others = {*_MARKED.findall(rest), *_named(_STATED, rest, options)} - {letter}
        if not others or _plain(rest) == _plain(options.get(letter, "")):
            return letter
        # "Option A: ..." may begin a list, and the choice come behind it.
        if not _LABELLED.match(said):
            return ""
    if stated := (_named(_STATED, said, options) or _named(_AFFIRMED, said, options)):
        return stated[0] if len(set(stated)) == 1 else ""
    return _by_words(said, options) or _only_letter(said, options)


def _named(pattern: re.Pattern[str], said: str, options: Mapping[str, str]) -> list[str]:
    """The letters that a pattern finds, without articles."""
    return [found[1] for found in pattern.finditer(said) if not _is_article(found, said, options)]


def _is_article(found: re.Match[str], said: str, options: Mapping[str, str]) -> bool:
    """Whether an "A" is the word "a": one that the words of option A follow, and nothing else, is not."""
    if found[1] != "A" or not _ARTICLE.match(said, found.end(1)):
        return False
    return said[found.end(1) :].strip(" .").casefold() != _plain(options.get("A", ""))


def _by_words(said: str, options: Mapping[str, str]) -> str:
    """The option whose words the answer is."""
    words = re.sub(rf"^{_NAMED}(?:\s+is\b|\s*:)[\s:]*", "", said, flags=re.IGNORECASE)
    same = [letter for letter, text in options.items() if _plain(text) == _plain(words)]
    return same[0] if len(same) == 1 else ""


def _only_letter(said: str, options: Mapping[str, str]) -> str:
    """A letter that begins or ends the answer, where no other is named and nothing is denied."""
    letters = [found for found in _LETTER.finditer(said) if not _is_article(found, said, options)]
    if len({found[1] for found in letters}) != 1 or _NEGATED.search(said):
        return ""
    first, last = letters[0], letters[-1]
    at_an_end = not said[: first.start()].strip(" ([*\"'") or not said[last.end() :].strip(" .)]}*\"'!")
    return first[1] if at_an_end else ""


def _plain(text: str) -> str:
    return " ".join(text.split()).strip(" .").casefold()


def _egoplan(values: Mapping[str, Any], where: str) -> Choice:
    # EgoPlan-Bench2 names its video inside the question's id only. SEED-Bench-R1's `video_basename` is left
    # aside: it names a video cut for one question, whose frames these numbers do not count.
    video = str(
        values.get("video_path") or values.get("video_id") or str(values["sample_id"]).rpartition("_")[0]
    )
    if not video:
        raise RowError(where, "no video is named")
    epic = _EPIC_VIDEO.search(video)
    if not video.lower().endswith(".mp4"):
        video += ".MP4" if epic else ".mp4"
    # EPIC counts exactly 60 frames a second, whatever the file has (mostly 59.94), and 50 in its extension.
    rate = 30 if epic is None else 50 if len(epic[1]) == 3 else 60
    now = values["current_observation_frame"]
    begin = values.get("task_start_frame")
    if begin is None:
        steps = values["task_progress_metadata"]
        begin = steps[0]["start_frame"] if steps else now
    # With nothing done yet there is no stretch to show, but what is seen at that moment.
    row = Row(where=where, videos=(video,), time=now / rate)
    shown = "The picture shows what is in view now."
    if begin != now:
        stretch = _stretch({"start": begin / rate, "end": now / rate}, where)
        row = Row(where=where, videos=(video,), stretch=stretch)
        shown = "The video shows what was done for it, up to now."
    options = {letter: str(values[f"choice_{letter.lower()}"]) for letter in "ABCD"}
    question = f"The wearer of this camera wants to {values['task_goal']}. {shown} What should be done next?"
    return _made(question, options, values["golden_choice_idx"], row)


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
    return _made(values["question"], options, letter, Row(where=where, videos=(name,)))


def _conversation(values: Mapping[str, Any], where: str) -> Choice | None:
    row = row_from_dict(values, where=where)
    if [turn.role for turn in row.turns] != ["user", "assistant"]:
        return None
    text = re.sub(r"<(?:video|image)>\n?", "", row.turns[0].text)
    options = options_in(text)
    if not options:
        return None
    said = row.turns[1].text
    return _checked(row, text, options, said if said in options else _by_words(said, options))


def _made(question: object, options: Mapping[str, str], letter: object, row: Row) -> Choice:
    lines = "\n".join(f"({letter}) {text}" for letter, text in options.items())
    return _checked(row, f"{question}\n{lines}\n{_ASK}", options, letter)


def _checked(row: Row, text: str, options: Mapping[str, str], letter: object) -> Choice:
    right = str(letter).strip().upper()
    if len(options) < 2:
        raise RowError(row.where, "fewer than two options")
    if right not in options:
        raise RowError(row.where, "the true answer is none of the options", str(letter))
    return Choice(row, text, options, right)


def _stretch(values: Mapping[str, Any], where: str) -> Interval | None:
    start, end = values.get("start"), values.get("end")
    if start is None or end is None:
        return None
    if not 0 <= start < end:
        raise RowError(where, "a stretch of time ends before it starts", f"{start} to {end} s")
    return Interval(float(start), float(end))
