"""Speculative decoding whose draft is the previous answer to the same question.

The draft is verified in one forward pass. Answers about a scene seldom change from one second to the next;
where a box moves, most digits of its coordinates stay. Tokens are always chosen from the model's own logits,
so the answer is the same as without a draft.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

__all__ = ["Draft", "DraftStore"]

_REMEMBERED = 64
"""Number of questions whose last answer is kept."""
_GIVE_UP = 4
"""Consecutive proposals without an accepted token after which the rest of a draft is not proposed."""
_LOOK_AHEAD = 3
"""Tokens of the draft that may be skipped to realign it with the new answer after a wrong token."""


class DraftStore:
    """The last answers by request key; the least recently stored is evicted first."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Hashable, tuple[int, ...]] = OrderedDict()

    def of(self, key: Hashable) -> Draft:
        """The draft for the next answer; empty where there is no earlier answer."""
        return Draft(self._answers.get(key, ()))

    def keep(self, key: Hashable, tokens: Sequence[int]) -> None:
        """Store a complete answer."""
        self._answers[key] = tuple(tokens)
        self._answers.move_to_end(key)
        if len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)

    def clear(self) -> None:
        """Forget all answers."""
        self._answers.clear()


class Draft:
    """An earlier answer, proposed piece by piece while the next one is decoded.

    After a wrong token the proposal goes on one token later, for a digit of a box that has changed; the next
    proposal is at most twice as long as what was accepted, plus one.
    """

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self._tokens = tuple(tokens)
        self._at = 0
        self._most = len(self._tokens)
        self._failed = 0

    def propose(self, most: int) -> tuple[int, ...]:
        """The next tokens to verify, at most `most`."""
        return self._tokens[self._at : self._at + max(0, min(most, self._most))]

    def learn(self, proposed: Sequence[int], chosen: Sequence[int]) -> None:
        """Move on in the draft after a proposal was verified.

        Args:
            proposed: What `propose` gave.
            chosen: The tokens that the answer went on with; all but the last were proposed.
        """
        right = len(chosen) - 1
        if right == len(proposed):
            # The last token came after the whole proposal, and may be what the draft has there too.
            self._at += right
            self._most = len(self._tokens)
        else:
            self._at += right
            self._most = 2 * right + 1
            self._failed = 0 if right else self._failed + 1
            if self._failed == _GIVE_UP:
                self._tokens = ()
        ahead = self._tokens[self._at : self._at + 1 + _LOOK_AHEAD]
        self._at += ahead.index(chosen[-1]) + 1 if chosen[-1] in ahead else 1
