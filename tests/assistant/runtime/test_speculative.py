"""Drafts: the last answer is proposed, goes on behind what has changed, and rests where it is never right."""

from __future__ import annotations

from egolive.assistant.runtime.speculative import Draft, DraftStore


def test_a_draft_goes_on_behind_what_has_changed() -> None:
    draft = Draft((1, 2, 3, 4, 5, 6, 7, 8))
    assert draft.propose(20) == (1, 2, 3, 4, 5, 6, 7, 8)
    draft.learn((1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 9))
    assert draft.propose(20) == (4, 5, 6, 7, 8)
    draft.learn((4, 5, 6, 7, 8), (4, 6))
    # The 5 was left out.
    assert draft.propose(20) == (7, 8)
    assert draft.propose(1) == (7,)
    draft.learn((7, 8), (7, 8, 0))
    assert draft.propose(20) == ()


def test_a_draft_that_is_never_right_is_left_alone() -> None:
    draft = Draft(range(100, 150))
    tried = []
    for _ in range(6):
        proposed = draft.propose(20)
        tried.append(len(proposed))
        draft.learn(proposed, (0,))
    assert tried == [20, 1, 1, 1, 0, 0]


def test_only_so_many_drafts_are_remembered() -> None:
    drafts = DraftStore()
    for key in range(100):
        drafts.keep(key, (key,))
    assert drafts.of(99).propose(5) == (99,)
    assert drafts.of(0).propose(5) == ()
