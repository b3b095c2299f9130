"""Fuses what the hand detector, the model and the tracker say into what is shown as true.

- A hand is where the detector sees it. Where it looked and sees none, a box of the model is a guess.
- What a hand holds is asked of the model alone. Without the hand in sight, or away from it, its box is a
  guess, and "none" is not known: a hand that nobody sees is not empty.
- Where no detector looks, hands are what the model says, and the second rule holds all the same.

"none" means looked for and not there; "unknown" means not looked for, or not sure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from egolive.assistant.schema.answers import Answer, Question
from egolive.streaming.frames import Box
from egolive.streaming.hands import Hand, HandWatch, Look, Side

__all__ = ["HandFusion", "HandsBeside", "hand_side", "held_side", "support"]

SIDES: tuple[Side, ...] = ("left", "right")

_STALE = 1.0
"""Seconds after which a look says nothing about the picture that is shown."""
_KEPT = 0.3
"""Seconds for which a hand stays where the tracker carries it although the newest look missed it: the
detector misses one that is there more often than it leaves within that time."""
_NEAR = 0.5
"""Seconds between a look and the picture of an answer up to which one supports the other."""
_OVERLAP = 0.3
"""Intersection over union from which two boxes are of one hand."""
_REACH = 0.2
"""Of a hand's box, on each side: what it holds reaches into that."""
_MEMORY = 256
"""Looks that are kept to judge answers that come late."""


def hand_side(question: Question) -> Side | None:
    """The side of a question for a hand; None for any other question."""
    return next((side for side in SIDES if _asks(question, f"{side} hand")), None)


def held_side(question: Question) -> Side | None:
    """The side of a question for what a hand holds; None for any other question."""
    return next((side for side in SIDES if _asks(question, f"object in the {side} hand")), None)


class HandFusion:
    """What is known about hands in one stream. Not thread-safe."""

    def __init__(self, *, questions: Iterable[Question] = (), guesses: bool = True) -> None:
        """Start with nothing seen; until there is a look, the model's own answers about hands count.

        Args:
            questions: Those for hands that a detector answers.
            guesses: Show boxes of the model that a detector does not support, marked as guesses.
        """
        self._questions = tuple(question for question in questions if hand_side(question) is not None)
        self._guesses = guesses
        self._looks: deque[Look] = deque(maxlen=_MEMORY)
        self._kept: dict[Side, tuple[Hand, Answer]] = {}
        self._said: dict[Side, Answer] = {}
        self._looking = False
        self._now = 0.0

    @property
    def looking(self) -> bool:
        """Whether the detector has looked lately."""
        return self._looking

    def see(self, look: Look) -> None:
        """Take what the detector found; looks come in order of time."""
        self._looks.append(look)
        for question in self._questions:
            side = hand_side(question)
            hand = None if side is None else look.hand(side)
            if side is not None and hand is not None:
                answer = Answer(question, question.phrase, boxes=(hand.box,), time=look.time, by="detector")
                self._kept[side] = (hand, answer)

    def forget(self) -> None:
        """Drop everything, for a stream that begins anew."""
        self._looks.clear()
        self._kept.clear()
        self._said.clear()

    def hear(self, answers: Iterable[Answer]) -> None:
        """Take new answers of the model before they are judged: what it says about hands comes first."""
        for answer in answers:
            side = hand_side(answer.question)
            if side is not None and answer.status == "ok":
                self._said[side] = answer

    def judge(self, answer: Answer) -> Answer:
        """A new answer of the model as it is written down: whether a look supports its boxes.

        Args:
            answer: With boxes where the model gave them.

        Returns:
            The same answer, each box with `supported`; unknown where none is, where a hand is "none" that the
            detector sees, and where "none" is in a hand that was not seen.
        """
        side, held = hand_side(answer.question), held_side(answer.question)
        if answer.status != "ok" or (side is None and held is None):
            return answer
        look = self._nearest(answer.time)
        if side is not None:
            if look is None:
                return answer
            phrase = answer.question.phrase
            if answer.absent and look.hand(side) is not None:
                return replace(answer, absent=False, unknown=f"the detector sees a {phrase}")
            hands = [hand.box for hand in look.hands]
            marks = [any(box.iou(one) >= _OVERLAP for one in hands) for box in answer.boxes]
            return _judged(answer, marks, f"the detector sees no {phrase} there")
        assert held is not None
        if look is not None:
            hand = look.hand(held)
            where = None if hand is None else hand.box
        else:
            said = self._said.get(held)
            if said is None or said.time != answer.time:
                return answer
            where = said.boxes[0] if said.boxes else None
        if answer.absent and where is None:
            return replace(answer, absent=False, unknown=f"no {held} hand seen")
        if look is None and where is not None:
            return answer
        marks = [where is not None and support(box, where) for box in answer.boxes]
        why = f"no {held} hand seen" if where is None else f"not at the {held} hand"
        return _judged(answer, marks, why)

    def merge(self, answers: Iterable[Answer], now: float) -> list[Answer]:
        """Put what the detector sees in place of what the model says about hands.

        Args:
            answers: What is current of the model's, boxes as they were found.
            now: Time of the picture that is shown.

        Returns:
            What is to be carried to that picture: the same object for as long as it says the same.
        """
        newest = self._looks[-1] if self._looks else None
        self._now = now
        self._looking = newest is not None and now - newest.time <= _STALE
        given = list(answers)
        if newest is None or not self._looking:
            return given
        asked = {answer.question for answer in given}
        seen = [
            answer if hand_side(answer.question) is None else self._seen(answer, newest) for answer in given
        ]
        extra = [self._of(question, newest) for question in self._questions if question not in asked]
        place = next((n for n, one in enumerate(seen) if one.question.task == "ground"), len(seen))
        return [*seen[:place], *extra, *seen[place:]]

    def settle(self, answers: Sequence[Answer]) -> list[Answer]:
        """What is shown as true, what as a guess and what as unknown.

        Args:
            answers: What `merge` gave, carried to the picture that is shown.
        """
        shown = [self._settled_hand(answer) for answer in answers]
        hands = {side: answer for answer in shown if (side := hand_side(answer.question)) is not None}
        return [self._settled_held(answer, hands) for answer in shown]

    def hands(self, answers: Iterable[Answer]) -> tuple[Hand, ...]:
        """The detector's hands with their joints, where the boxes of settled answers are now."""
        found = []
        for answer in answers:
            side = hand_side(answer.question)
            if side is None or answer.by != "detector" or not answer.boxes or side not in self._kept:
                continue
            hand, _ = self._kept[side]
            found.append(_moved(hand, answer.boxes[0]))
        return tuple(found)

    def _seen(self, answer: Answer, newest: Look) -> Answer:
        """What is known about a hand that the model was asked for, too."""
        found = self._of(answer.question, newest)
        # The model's box waits for `settle`, which makes it a guess.
        return found if found.boxes or not answer.boxes else answer

    def _of(self, question: Question, newest: Look) -> Answer:
        """What the detector says about a hand."""
        side = hand_side(question)
        kept = None if side is None else self._kept.get(side)
        # Until the next look it stays; once one has missed it, for as long as a box that is carried fits.
        if kept is not None and (kept[1].time == newest.time or self._now - kept[1].time <= _KEPT):
            answer = kept[1]
            return answer if answer.question == question else replace(answer, question=question)
        return Answer(question, "none", absent=True, time=newest.time, by="detector")

    def _settled_hand(self, answer: Answer) -> Answer:
        if hand_side(answer.question) is None or answer.absent or answer.status != "ok":
            return answer
        if answer.by == "detector":
            return _marked(answer, [True] * len(answer.boxes))
        if not self._looking:
            return answer
        return self._guess(answer, f"the detector sees no {answer.question.phrase} there")

    def _settled_held(self, answer: Answer, hands: dict[Side, Answer]) -> Answer:
        side = held_side(answer.question)
        if side is None or answer.status != "ok":
            return answer
        where = self._where(side, hands)
        if where == "unasked":
            return answer
        if answer.absent and where is None:
            return replace(answer, absent=False, unknown=f"no {side} hand in sight")
        if not answer.boxes:
            return answer
        if where is None:
            return self._guess(answer, f"no {side} hand in sight")
        assert isinstance(where, Box)
        if not any(support(box, where) for box in answer.boxes):
            return self._guess(answer, f"not at the {side} hand")
        return _marked(answer, [True] * len(answer.boxes)) if where.finder == "detector" else answer

    def _where(self, side: Side, hands: dict[Side, Answer]) -> Box | str | None:
        """The box of a hand as it is shown; None where none is in sight, "unasked" where nobody looked."""
        shown = hands.get(side)
        if shown is not None:
            return shown.boxes[0] if shown.boxes else None
        if not self._looking:
            return "unasked"
        hand = self._looks[-1].hand(side)
        return None if hand is None else hand.box

    def _guess(self, answer: Answer, why: str) -> Answer:
        """The answer with its boxes as guesses, or without them where guesses are not shown."""
        shown = self._guesses or not self._looking
        guesses = tuple(replace(box, supported=False) for box in answer.boxes) if shown else ()
        return replace(answer, boxes=(), guesses=guesses, unknown=why)

    def _nearest(self, time: float) -> Look | None:
        """The look that is nearest to a time, if it is near enough to say something about it."""
        look = min(self._looks, key=lambda one: abs(one.time - time), default=None)
        return look if look is not None and abs(look.time - time) <= _NEAR else None


@dataclass(frozen=True, slots=True)
class HandsBeside:
    """A hand detector beside the model of a run."""

    watch: HandWatch
    """What asks it."""
    questions: tuple[Question, ...] = ()
    """Those that it answers, "left hand" and "right hand", whether the model is asked them too or not."""
    guesses: bool = True
    """Show boxes of the model that the detector does not support, marked as guesses."""

    def fusion(self) -> HandFusion:
        """What holds its looks against the model's answers, for one run."""
        return HandFusion(questions=self.questions, guesses=self.guesses)


def support(held: Box, hand: Box) -> bool:
    """Whether a hand is where it can hold a thing: its box, a little wider, and the thing's overlap."""
    across, down = _REACH * (hand.x2 - hand.x1), _REACH * (hand.y2 - hand.y1)
    return (
        held.x1 < hand.x2 + across
        and hand.x1 - across < held.x2
        and held.y1 < hand.y2 + down
        and hand.y1 - down < held.y2
    )


def _asks(question: Question, phrase: str) -> bool:
    return question.task == "ground" and question.phrase == phrase


def _marked(answer: Answer, supported: Sequence[bool]) -> Answer:
    """The answer with whether each of its boxes is supported."""
    pairs = zip(answer.boxes, supported, strict=True)
    return replace(answer, boxes=tuple(replace(box, supported=given) for box, given in pairs))


def _judged(answer: Answer, supported: Sequence[bool], why: str) -> Answer:
    """The answer with its marks, and why it is unknown where it has boxes and none is supported."""
    marked = _marked(answer, supported)
    return replace(marked, unknown=why) if supported and not any(supported) else marked


def _moved(hand: Hand, box: Box) -> Hand:
    """A hand whose box was carried: its joints are moved and scaled with it."""
    old = hand.box
    scale_x = (box.x2 - box.x1) / max(old.x2 - old.x1, 1e-6)
    scale_y = (box.y2 - box.y1) / max(old.y2 - old.y1, 1e-6)
    joints = tuple(
        (box.x1 + (x - old.x1) * scale_x, box.y1 + (y - old.y1) * scale_y) for x, y in hand.landmarks
    )
    return replace(hand, box=box, landmarks=joints)
