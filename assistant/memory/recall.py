"""Recall: answers "where did I put the cup?" by asking the model about pictures of stored moments.

Moments at which a hand let go are gone through from the newest backwards. In the last picture before each,
the model is asked for the thing; if it finds it where the hand's hold was, this was it. So a thing needs no
name while the stream runs; words of the timeline only say where else to look when there are many moments.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image as PillowImage

from egolive.assistant.generation.domain import DomainJudge
from egolive.assistant.generation.generate import GenerationRequest, Sampling, generate_answers
from egolive.assistant.memory.encodings import give_encoding, maker_of
from egolive.assistant.memory.moment_store import Memory, Moment
from egolive.assistant.prompts.grammar import matchers_of
from egolive.assistant.prompts.prompts import build_prompt, make_vision
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Engine, EngineSession
from egolive.streaming.clock import MonotonicClock
from egolive.streaming.errors import DataError, UsageError
from egolive.streaming.frames import Box, Image

__all__ = ["Recalled", "picture_of", "recall", "thing_asked_for"]

_MOST_PIXELS = 4_000_000
"""Of a remembered picture; they are 640 pixels wide at most."""
_OVERLAP = 0.3
"""IoU from which the thing that was found is what the hand held."""
_FILLING = re.compile(
    r"^(?:where|wo)\b|\b(?:did|do|have|has|had|is|are|was|were|i|we|you|put|place|placed|leave|left|lay|laid|"
    r"set|down|last|see|seen|it|now|my|the|a|an|our|your|again|please)\b(?! hand)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """Where something was."""

    phrase: str
    at: float
    """Seconds since 1970."""
    time: float
    """Stream time of the run that remembers it, seconds."""
    put: bool
    """Whether a hand put it down then; else it was only seen."""
    box: Box
    """Where it is in the picture, in pixels of the frame as it was."""
    size: tuple[int, int]
    """Width and height of that frame."""
    picture: bytes
    """A JPEG of it."""
    looks: int
    """Pictures that the model was asked about."""
    guess: bool = False
    """The model is not known to have been trained on such scenes, so that it can only guess."""


def thing_asked_for(question: str) -> str:
    """What a question asks the place of: "where did I put my red cup?" gives "red cup", "where?" gives ""."""
    words = _FILLING.sub(" ", question.strip().rstrip("?!. "))
    return " ".join(words.split())


def recall(memory: Memory, engine: Engine, question: str, *, looks: int = 64) -> Recalled | None:
    """Find where something was put down, or else where it was last seen.

    Args:
        memory: What is remembered.
        engine: What looks again.
        question: In words; or only the thing.
        looks: Pictures that it may be asked about, the newest first.

    Returns:
        The moment; None where nothing is found.

    Raises:
        EngineError: The engine failed.
        DataError: Something remembered is damaged.
        UsageError: The question names nothing.
    """
    phrase = thing_asked_for(question)
    if not phrase:
        raise UsageError(f'{question!r} names nothing to look for: ask "where did I put the cup?"')
    with engine.session() as session:
        looker = _Looker(engine, session, phrase)
        holds = memory.newest(["held"], limit=looks // 2)
        reached = min((moment.id for moment in holds), default=0)
        # Further back only where words lead: the hold stands just before the putting down.
        for hit in memory.search(phrase, kinds=["put"], limit=looks // 4):
            if hit.id < reached:
                holds += memory.newest(["held"], before=hit.id, limit=1)
        for held in holds:
            box = looker.look(held)
            if box is None or held.box is None or box.iou(held.box) < _OVERLAP:
                continue
            # "put" was remembered right after it.
            after = memory.following(held.id, "put")
            lying = looker.look(after) if after is not None else None
            moment, place = (after, lying) if after is not None and lying is not None else (held, box)
            return looker.found(moment, place, when=after or held, put=True)
        for moment in memory.newest(["seen", "put", "held"], limit=looks):
            box = looker.look(moment)
            if box is not None:
                return looker.found(moment, box, when=moment, put=False)
    return None


def picture_of(jpeg: bytes) -> Image:
    """The picture of a moment, RGB.

    Raises:
        DataError: It is damaged.
    """
    try:
        with PillowImage.open(io.BytesIO(jpeg), formats=["JPEG"]) as picture:
            width, height = picture.size
    except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError) as error:
        raise DataError("a remembered picture is damaged; forget it") from error
    if width * height > _MOST_PIXELS:
        # The file may come from elsewhere: no picture in it is worth gigabytes.
        raise DataError(
            f"a remembered picture has {width}x{height} pixels, egolive keeps small ones; forget it"
        )
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise DataError("a remembered picture is damaged; forget it")
    image: Image = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    return image


class _Looker:
    """Asks where one thing is in remembered pictures, each at most once."""

    def __init__(self, engine: Engine, session: EngineSession, phrase: str) -> None:
        self._engine = engine
        self._session = session
        self._question = Question("ground", phrase)
        self._matchers = matchers_of(engine, engine.profile)
        self._boxes: dict[int, Box | None] = {}
        self._judge = DomainJudge(engine.profile)
        self._guess = False

    def look(self, moment: Moment) -> Box | None:
        """Where the thing is in the moment's picture; None where it is not, or no picture is left."""
        if moment.id not in self._boxes:
            seen = moment.picture
            self._boxes[moment.id] = None if seen is None else self._ask(moment, picture_of(seen))
        return self._boxes[moment.id]

    def found(self, moment: Moment, box: Box, *, when: Moment, put: bool) -> Recalled:
        assert moment.picture is not None
        assert moment.size is not None
        return Recalled(
            phrase=self._question.phrase,
            at=when.at,
            time=when.time,
            put=put,
            box=box,
            size=moment.size,
            picture=moment.picture,
            looks=len(self._boxes),
            guess=self._guess,
        )

    def _ask(self, moment: Moment, image: Image) -> Box | None:
        profile = self._engine.profile
        vision = make_vision([image], profile, keys=(("remembered", moment.id, moment.time),))
        if moment.encoding is not None:
            engine = self._engine
            give_encoding(self._session, vision, moment.encoding, maker_of(engine), engine.info.device)
        prompt = build_prompt(profile, self._question, [vision])
        size = moment.size or (image.shape[1], image.shape[0])
        generation = GenerationRequest(
            question=self._question, prompt=prompt, source_size=size, time=moment.time
        )
        answers = generate_answers(
            self._session, [generation], profile, Sampling(), MonotonicClock(), matchers=self._matchers
        )
        judged = [self._judge.judged(answer) for _, answer in answers]
        self._guess = any(answer.guess for answer in judged)
        boxes = [box for answer in judged for box in answer.boxes]
        return boxes[0] if boxes else None
