"""What a checkpoint expects and how it answers: prompts, coordinate unit, picture size, think or not.

A profile is plain data. It travels with a checkpoint as `egolive.json`; those of EgoThinker-v1, of Qwen2-VL's
own Instruct models and of the bundled nano model are built in. Prompts are put together in
`egolive.assistant.prompts.prompts`, answers are read in `egolive.assistant.prompts.parsing`; this file knows
neither tokens nor pixels.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from egolive.streaming.durable_files import replace_file
from egolive.streaming.errors import ConfigError, UsageError
from egolive.streaming.json_files import read_json_object

__all__ = [
    "EGOTHINKER_V1",
    "NANO",
    "PROFILES",
    "PROFILE_FILE",
    "QWEN2_VL_INSTRUCT",
    "SIMULATED_NANO",
    "SIMULATED_SCENES",
    "AnswerStyle",
    "Calibration",
    "Curve",
    "PictureSize",
    "Profile",
    "Templates",
    "Unit",
    "checkpoint_profile",
    "load_profile",
    "profile_from_dict",
    "profile_to_dict",
    "save_profile",
]

PROFILE_FILE = "egolive.json"
"""Name of a profile's file in a checkpoint folder."""

Unit = Literal["norm1000", "norm1", "pixels", "auto"]
"""What a box coordinate counts: thousandths of the picture, fractions of it, pixels of the resized picture
(Qwen2.5-VL), or told by value (all of an answer's coordinates <= 1: fractions, else thousandths)."""

AnswerStyle = Literal["box_tokens", "list"]
"""How a box is written: `<|box_start|>(x1,y1),(x2,y2)<|box_end|>` as Qwen2-VL does, or `[x1, y1, x2, y2]`."""

_STRICT = ConfigDict(strict=True, extra="forbid")
"""Of what is read from JSON: an unknown key is an error, and so is "3" where a number is expected."""

_CELL = 28
"""Pixels along the side of one merged visual token."""


@dataclass(frozen=True, slots=True)
class Templates:
    """One question text for each task.

    `{phrase}` stands for the question's words, `{duration}` for the window's length in seconds, `{range}` for
    the coordinate range in words.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    intent: str
    next: str
    ground: str
    when: str
    ask: str = "{phrase}"

    def __post_init__(self) -> None:
        for task in ("ground", "when", "ask"):
            if "{phrase}" not in getattr(self, task):
                raise ConfigError(
                    f"profile: the {task} prompt has no {{phrase}} in it, so nothing is asked for"
                )


@dataclass(frozen=True, slots=True)
class Curve:
    """What a model's own score of one kind of answer is worth, as points of a line that never falls."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    kind: str
    """Kind of answer, see `egolive.assistant.prompts.score_calibration.kind_of`."""
    scores: tuple[float, ...]
    """Scores as the model gives them, rising, each from 0 to 1."""
    chances: tuple[float, ...]
    """The share of answers of such a score that are right; as many, never falling, each from 0 to 1."""

    def __post_init__(self) -> None:
        if not self.scores or len(self.scores) != len(self.chances):
            raise ConfigError(f"profile: the curve {self.kind!r} needs as many scores as chances, and one")
        for values in (self.scores, self.chances):
            if not all(0 <= value <= 1 for value in values):
                raise ConfigError(f"profile: the curve {self.kind!r} has a number that is not from 0 to 1")
        if any(one >= other for one, other in pairwise(self.scores)):
            raise ConfigError(f"profile: the scores of the curve {self.kind!r} do not rise")
        if any(one > other for one, other in pairwise(self.chances)):
            raise ConfigError(f"profile: the chances of the curve {self.kind!r} fall")

    def at(self, score: float) -> float:
        """The probability that an answer of this score is right, from 0 to 1; straight between the points."""
        if score <= self.scores[0]:
            return self.chances[0]
        for number in range(1, len(self.scores)):
            low, high = self.scores[number - 1], self.scores[number]
            if score <= high:
                share = (score - low) / (high - low)
                return self.chances[number - 1] + share * (self.chances[number] - self.chances[number - 1])
        return self.chances[-1]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the scores of a model mean; written by `egolive calibrate`."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    curves: tuple[Curve, ...]
    """One for each kind of answer that was measured."""
    threshold: float = 0.5
    """An answer that is right with a smaller probability is shown as "not sure"."""
    fitted_on: str = ""
    """In words: on which answers."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise _error("threshold", "is from 0 to 1", self.threshold)
        kinds = [curve.kind for curve in self.curves]
        if len(set(kinds)) < len(kinds):
            raise ConfigError("profile: the calibration has two curves of one kind")

    def curve(self, kind: str) -> Curve | None:
        """The curve of a kind of answer; None where it was not measured."""
        return next((curve for curve in self.curves if curve.kind == kind), None)


@dataclass(frozen=True, slots=True)
class Profile:
    """How one checkpoint is asked and read."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    unit: Unit
    prompts: Templates
    """Questions that are answered directly."""
    think_prompts: Templates | None = None
    """Questions that ask for reasoning first; None where the model never learned to."""
    think: bool = False
    """Whether a question is asked with reasoning unless its asker decides."""
    system: str = ""
    """The system message; empty means no system turn at all."""
    answer_style: AnswerStyle = "box_tokens"
    time_decimals: int = 2
    """Decimals of a second in a rendered interval."""
    picture: tuple[int, int] | None = None
    """Fixed (height, width) of every picture that the model sees, multiples of 28; None: from the budgets."""
    image_pixels: tuple[int, int] = (50_176, 451_584)
    """Least and most pixels of a single picture."""
    video_pixels: tuple[int, int] = (50_176, 112_896)
    """Least and most pixels of one frame of a window."""
    window_slices: int = 8
    """Slices in a full window."""
    fps: float = 2.0
    """Frames a second that are sampled from the stream."""
    paper_prompt: bool = False
    """Put the text before the picture, as EgoThinker's GRPO did; its SFT and evaluation put it after."""
    domain: str = ""
    """What its model was trained on, where it knows nothing else, such as "factory floors only"; empty where
    no such limit is known. Answers about other scenes are marked as guesses."""
    free_questions: bool = True
    """Whether it answers questions in other words than its prompts; where not, they are refused."""
    calibration: Calibration | None = None
    """What its scores mean; None: not measured."""

    def __post_init__(self) -> None:
        if self.think and self.think_prompts is None:
            raise ConfigError("profile: think is on, but there are no think_prompts to ask with")
        if self.picture is not None and any(side < _CELL or side % _CELL for side in self.picture):
            raise _error("picture", "is a height and a width, multiples of 28", self.picture)
        for key in ("image_pixels", "video_pixels"):
            least, most = getattr(self, key)
            if not 1 <= least <= most:
                raise _error(key, "is the least and the most pixels, in this order", (least, most))
        if self.window_slices < 1:
            raise _error("window_slices", "is at least 1", self.window_slices)
        if not 0 < self.fps <= 1000:
            raise _error("fps", "is above 0 and at most 1000", self.fps)
        if not 0 <= self.time_decimals <= 6:
            raise _error("time_decimals", "is from 0 to 6", self.time_decimals)


EGOTHINKER_V1 = Profile(
    name="egothinker-v1",
    # GRPO scored integers, the evaluation asks for fractions: the value tells them apart.
    unit="auto",
    system="You are a helpful assistant.",
    answer_style="list",
    prompts=Templates(
        intent="What is the wearer of this camera trying to do? Answer in a few words.",
        next="What will the wearer of this camera do next? Answer in a few words.",
        ground=(
            "Give the bounding box of the {phrase} in this image as [x_min, y_min, x_max, y_max], {range}, "
            "and nothing else. If it cannot be seen, say none."
        ),
        when=(
            'This video lasts {duration} seconds. When does this happen: "{phrase}"? Give the interval as '
            "(start,end) in seconds with two decimals, and nothing else. If it does not happen, say none."
        ),
    ),
    think_prompts=Templates(
        intent=(
            "What is the wearer of this camera trying to do? Write your reasoning inside <think> and "
            "</think>, then a few words as the answer inside <answer> and </answer>."
        ),
        next=(
            "What will the wearer of this camera do next? Write your reasoning inside <think> and </think>, "
            "then a few words as the answer inside <answer> and </answer>."
        ),
        ground=(
            "Find the {phrase} in this image. Write your reasoning inside <think> and </think>, then its "
            "bounding box inside <answer> and </answer> as [x_min, y_min, x_max, y_max], {range}. If it "
            "cannot be seen, the answer is <answer>none</answer>."
        ),
        when=(
            'This video lasts {duration} seconds. Find the interval in which this happens: "{phrase}". Write '
            "your reasoning inside <think> and </think>, then the interval inside <answer> and </answer> as "
            "(start,end) in seconds with two decimals. If it does not happen, the answer is "
            "<answer>none</answer>."
        ),
        ask=(
            "{phrase} Write your reasoning inside <think> and </think>, then the answer inside <answer> and "
            "</answer>."
        ),
    ),
)
"""EgoThinker-v1, and any Qwen2-VL checkpoint that brings no profile of its own."""

NANO = Profile(
    name="nano",
    unit="norm1000",
    # Short on purpose: a prompt token costs a small model as much as a visual one.
    prompts=Templates(
        intent="What is the wearer doing?",
        next="What comes next?",
        ground="Find the {phrase}.",
        when="When did the wearer {phrase}?",
    ),
    time_decimals=1,
    picture=(140, 224),
    # It was trained on windows of 2 to 8 slices; rolling ones grow to 7.
    window_slices=4,
)
"""The structure and prompts of the bundled model that the project trains itself."""

SIMULATED_SCENES = "simulated kitchens and workbenches only"
"""The domain of whatever is trained on the simulator alone."""

SIMULATED_NANO = replace(NANO, domain=SIMULATED_SCENES, free_questions=False)
"""A nano that was trained on the simulator alone, as the bundled one."""

QWEN2_VL_INSTRUCT = Profile(
    name="qwen2-vl-instruct",
    unit="norm1000",
    system="You are a helpful assistant.",
    # Its marks: object_ref around the phrase, box_start and box_end around two corners in thousandths.
    answer_style="box_tokens",
    prompts=Templates(
        intent=EGOTHINKER_V1.prompts.intent,
        next=EGOTHINKER_V1.prompts.next,
        ground=(
            "Give the bounding box of <|object_ref_start|>the {phrase}<|object_ref_end|> in this image. If "
            "it cannot be seen, say none."
        ),
        when=EGOTHINKER_V1.prompts.when,
    ),
)
"""Qwen2-VL-2B-Instruct and 7B-Instruct, trained neither on first-person video nor to reason in tags."""

PROFILES = {profile.name: profile for profile in (EGOTHINKER_V1, NANO, QWEN2_VL_INSTRUCT)}
"""The built-in profiles by name."""


def load_profile(folder: str | Path) -> Profile:
    """The profile of a checkpoint folder: its `egolive.json`, else a built-in one, see `checkpoint_profile`.

    Raises:
        ConfigError: no checkpoint there, a mistake in its profile, or an architecture without a built-in one.
    """
    return checkpoint_profile(folder)[0]


def checkpoint_profile(folder: str | Path) -> tuple[Profile, str]:
    """The profile of a checkpoint folder, and in a few words where it is from.

    Without a file of its own, Qwen2-VL's Instruct models are told by the folder's name (in the hub's cache by
    the model's id), else by the name that their configuration keeps; everything else of this architecture is
    taken for EgoThinker-v1.

    Raises:
        ConfigError: no checkpoint there, a mistake in its profile, or an architecture without a built-in one.
    """
    path = Path(folder) / PROFILE_FILE
    if path.is_file():
        return profile_from_dict(_read_object(path), where=str(path)), f"from its {PROFILE_FILE}"
    config = Path(folder) / "config.json"
    if not config.is_file():
        raise ConfigError(
            f"{folder}: no config.json, so this is no checkpoint; give a folder made by save_pretrained"
        )
    values = _read_object(config)
    model_type = values.get("model_type")
    if model_type != "qwen2_vl":
        raise ConfigError(
            f"{folder}: no built-in profile for model type {model_type!r}; use a qwen2_vl checkpoint "
            f"or put an {PROFILE_FILE} beside its config.json"
        )
    name = _checkpoint_name(Path(folder))
    if _INSTRUCT.search(name):
        return QWEN2_VL_INSTRUCT, f"built in, by the name {name}"
    # A fine-tuned model keeps the name of what it was made from.
    made_from = values.get("_name_or_path")
    if isinstance(made_from, str) and _INSTRUCT.search(made_from) and "ego" not in name.lower():
        return QWEN2_VL_INSTRUCT, f"built in, by the name {made_from:.80} in its config.json"
    return EGOTHINKER_V1, f"built in, for Qwen2-VL checkpoints without an {PROFILE_FILE}"


_INSTRUCT = re.compile(r"(?:^|[/\\-])qwen2-vl-(?:2b|7b|72b)-instruct(?:$|[-/\\])", re.IGNORECASE)
"""Also of its published quantised forms, such as Qwen2-VL-2B-Instruct-AWQ."""


def _checkpoint_name(folder: Path) -> str:
    """Name of a checkpoint's folder; in the hub's cache (models--owner--name/snapshots/revision) its id."""
    folder = folder.absolute()
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return folder.name


def save_profile(profile: Profile, folder: str | Path) -> None:
    """Write a profile into a checkpoint folder, where `load_profile` finds it."""
    text = json.dumps(profile_to_dict(profile), indent=2, ensure_ascii=False)
    replace_file(Path(folder) / PROFILE_FILE, f"{text}\n".encode())


def profile_to_dict(profile: Profile) -> dict[str, Any]:
    """Plain JSON values of a profile; `profile_from_dict` turns them back."""
    values = asdict(profile)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def profile_from_dict(values: object, *, where: str = "profile") -> Profile:
    """A profile from plain JSON values; keys with a default may be left out.

    Args:
        values: what `profile_to_dict` gives.
        where: named in the error.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong kind.
    """
    try:
        # As JSON, for which strict mode takes a list as a tuple and an object as a dataclass.
        return _PROFILE.validate_json(json.dumps(values))
    except ValidationError as error:
        raise ConfigError(f"{where}: {_mistake(error)}") from None


_PROFILE = TypeAdapter(Profile)
_KINDS = {
    "string_type": "a text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "dataclass_type": "an object of prompts",
    "tuple_type": "a list of two whole numbers",
    "too_long": "a list of two whole numbers",
}
_CALIBRATION_KINDS = _KINDS | {"dataclass_type": "an object", "tuple_type": "a list"}
"""What is expected, by the type of pydantic's error."""


def _mistake(error: ValidationError) -> str:
    """The first mistake in one line; an unknown key comes first, for it explains one that is missing."""
    mistakes = error.errors(include_url=False)
    unknown = (mistake for mistake in mistakes if mistake["type"] == "unexpected_keyword_argument")
    mistake = next(unknown, mistakes[0])
    kind, place, got = mistake["type"], mistake["loc"], mistake["input"]
    if kind == "value_error":
        return str(mistake["ctx"]["error"]).removeprefix("profile: ")
    if kind == "unexpected_keyword_argument":
        known = fields(_class_at(place[:-1]))
        return f"unknown key {place[-1]!r}; known are {', '.join(field.name for field in known)}"
    if not place:
        return f"expected an object, got {type(got).__name__}" if kind == "dataclass_type" else mistake["msg"]
    kinds = _CALIBRATION_KINDS if place[0] == "calibration" else _KINDS
    if isinstance(place[-1], int) and place[0] != "calibration":
        kind, place = "tuple_type", place[:-1]
    if kind == "missing":
        return f"the key {place[-1]!r} is missing"
    if kind == "literal_error":
        choices = mistake["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        return f"{place[-1]} is one of {choices}, got {got!r:.60}"
    return f"{place[-1]} is {kinds.get(kind, mistake['msg'])}, got {str(got)[:60]!r}"


def _class_at(place: tuple[int | str, ...]) -> type[Profile | Templates | Calibration | Curve]:
    """What stands at a place of a profile."""
    if not place:
        return Profile
    if place[0] == "calibration":
        return Calibration if len(place) == 1 else Curve
    return Templates


def _error(key: str, rule: str, value: object) -> ConfigError:
    return ConfigError(f"profile: {key} {rule}, got {str(value)[:60]!r}")


def _read_object(path: Path) -> dict[str, Any]:
    where = f"{path}: cannot be read as JSON"
    return read_json_object(path, where=where, remedy="mend or remove it", nan=True, error=ConfigError)


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSize:
    """Size at which the model sees pictures, in place of the one that its profile says."""

    min_pixels: int | None = None
    """Least pixels at which the model sees a picture."""
    max_pixels: int | None = None
    """Most pixels at which the model sees a picture."""
    height: int | None = None
    """Exact height at which the model sees pictures, rounded to a multiple of 28; with `--width`."""
    width: int | None = None
    """Exact width at which the model sees pictures, rounded to a multiple of 28; with `--height`."""

    def __post_init__(self) -> None:
        for name in ("min_pixels", "max_pixels", "height", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} is 1 or more, got {value}")
        if (self.height is None) != (self.width is None):
            raise UsageError("an exact size needs --height and --width")
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise UsageError(f"--min-pixels {self.min_pixels} is more than --max-pixels {self.max_pixels}")

    def applied_to(self, profile: Profile) -> Profile:
        """The profile with these sizes in place of its own."""
        if self.height is not None and self.width is not None:
            size = (max(28, round(self.height / 28) * 28), max(28, round(self.width / 28) * 28))
            return replace(profile, picture=size)
        if self.min_pixels is None and self.max_pixels is None:
            return profile
        return replace(
            profile,
            picture=None,
            image_pixels=self._limits(profile.image_pixels),
            video_pixels=self._limits(profile.video_pixels),
        )

    def _limits(self, own: tuple[int, int]) -> tuple[int, int]:
        """Limits in which one that is given moves the other out of its way."""
        least = self.min_pixels or min(own[0], self.max_pixels or own[0])
        return least, self.max_pixels or max(own[1], least)
