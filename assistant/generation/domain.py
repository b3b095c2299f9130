"""What a model knows: whether pictures are of the kind that it was trained on, and which questions it takes.

A profile with a `domain` says that its model knows nothing else. Answers about other scenes are then marked:
`Answer.domain` is "outside", or "unknown" where it cannot be told, and their scores, which were measured
inside, are dropped.
"""

from __future__ import annotations

import re
import statistics
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace

from egolive.assistant.schema.answers import Answer, Domain
from egolive.assistant.schema.profiles import SIMULATED_SCENES, Profile
from egolive.streaming.errors import UsageError

__all__ = ["GUESSES", "DomainJudge", "advice", "check_question"]

GUESSES = "not a scene that this model knows: guesses"
"""Where there is no room for `advice`."""
_OTHERS = "--model hyf015/EgoThinker-v1, Qwen/Qwen2-VL-2B-Instruct, or --engine http://…"
_LOOKS = 9
"""Newest pictures whose familiarity decides: one picture that is taken for another kind changes nothing."""
_FEW = 3
"""With fewer of them, all have to be familiar."""
_FAMILIAR = 0.5


def advice(profile: Profile) -> str:
    """What a model knows and what to take for other scenes, in one line; empty where nothing limits it."""
    if not profile.domain:
        return ""
    knows = "knows only simulated scenes" if profile.domain == SIMULATED_SCENES else f"knows {profile.domain}"
    return f"{profile.name} {knows}; for real ones use {_OTHERS}"


def check_question(words: str, profile: Profile) -> None:
    """Refuse a free question that a model never learned to answer.

    Args:
        words: The question. One in the words of the profile's prompts is taken.
        profile: Of the model.

    Raises:
        UsageError: The model answers questions of its own alone; says which.
    """
    if profile.free_questions or any(prompt.fullmatch(words.strip()) for prompt in _prompts(profile)):
        return
    raise UsageError(
        f"{profile.name} answers no free questions, it knows four: --task intent, --task next, "
        '--task ground "left hand", --task when "open the fridge" (Python: task="intent" and so on); '
        f"for others use {_OTHERS}"
    )


def _prompts(profile: Profile) -> Iterator[re.Pattern[str]]:
    prompts = profile.prompts
    for template in (prompts.intent, prompts.next, prompts.ground, prompts.when):
        parts = re.split(r"(\{\w+\})", template)
        pattern = "".join(".+" if part.startswith("{") else re.escape(part) for part in parts)
        yield re.compile(pattern, re.IGNORECASE | re.DOTALL)


class DomainJudge:
    """Says of the answers about one stream whether the model was trained on scenes like those."""

    def __init__(self, profile: Profile, *, simulated: bool = False) -> None:
        """Judge nothing yet.

        Args:
            profile: Of the model.
            simulated: The stream is known to be the simulator's.
        """
        self._limited = bool(profile.domain)
        self._inside = simulated and profile.domain == SIMULATED_SCENES
        self._seen: OrderedDict[tuple[bool, float], float] = OrderedDict()

    def forget(self) -> None:
        """Forget what was seen: another stream begins."""
        self._seen.clear()

    def judged(self, answer: Answer) -> Answer:
        """The answer with its domain; the newest pictures of the stream decide, its own among them."""
        if not self._limited or answer.status in ("preempted", "broken"):
            return answer
        if answer.familiarity is not None:
            # Questions that were asked together are about the same picture.
            self._seen[answer.window is not None, answer.time] = answer.familiarity
            while len(self._seen) > _LOOKS:
                self._seen.popitem(last=False)
        domain = self._verdict()
        if domain == "inside":
            return replace(answer, domain=domain)
        boxes = tuple(replace(box, score=None) for box in answer.boxes)
        return replace(answer, domain=domain, boxes=boxes, score=None, calibrated=False, unsure=False)

    def _verdict(self) -> Domain:
        if self._inside:
            return "inside"
        scores = list(self._seen.values())
        if not scores:
            return "unknown"
        decisive = min(scores) if len(scores) < _FEW else statistics.median(scores)
        return "inside" if decisive > _FAMILIAR else "outside"
