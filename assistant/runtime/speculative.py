"""The last answer to the same question as a draft of the next: proposed whole, checked in one pass.

A scene seldom changes from one second to the next, and where it does, most signs of a box stay. A draft is
only ever a proposal: what the model says is decided by its own logits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

__all__ = ["Draft", "DraftStore"]

_REMEMBERED = 64
"""Questions whose last answer is kept."""
_GIVE_UP = 4
"""Proposals in a row of which no token was right, before the rest of a draft is left alone."""
_LOOK_AHEAD = 3
"""Tokens of a draft that the new answer may leave out where the two part."""


class DraftStore:
    """The last answers by their keys; those not asked for longest leave first."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Hashable, tuple[int, ...]] = OrderedDict()

    def of(self, key: Hashable) -> Draft:
        """The draft of the next answer; empty where there was none."""
        return Draft(self._answers.get(key, ()))

    def keep(self, key: Hashable, tokens: Sequence[int]) -> None:
        """Remember a whole answer."""
        self._answers[key] = tuple(tokens)
        self._answers.move_to_end(key)
        if len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)

    def clear(self) -> None:
        """Forget all answers."""
        self._answers.clear()


class Draft:
    """One earlier answer while the next one is written.

    Where the two part, the rest of it is proposed again one token further on, as when a digit of a box has
    changed; by so much less as it was right before.
    """

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self._tokens = tuple(tokens)
        self._at = 0
        self._most = len(self._tokens)
        self._failed = 0

    def propose(self, most: int) -> tuple[int, ...]:
        """The next tokens to check, at most so many."""
        return self._tokens[self._at : self._at + max(0, min(most, self._most))]

    def learn(self, proposed: Sequence[int], chosen: Sequence[int]) -> None:
        """Take in what was made of a proposal.

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
