"""The appearance of an object over time: open or closed, its content and fill level, what was done to it."""

from dataclasses import dataclass

from egolive.train.simulator.objects.kinds import KINDS
from egolive.train.simulator.objects.paint import Colour, mixed

__all__ = ["Look", "first_look", "fluid_colour", "look_after"]


@dataclass(frozen=True, slots=True)
class Look:
    """What determines an object's picture besides its kind; `state` is its word in the labels.

    `level` counts thirds: of the filling, the cut, the spread, the writing or the wiping.
    """

    state: str
    tags: frozenset[str] = frozenset()
    content: frozenset[str] = frozenset()
    fill: int = 0
    level: int = 0


_WORD = {
    "cut": "cut", "spread": "spread", "write": "written", "turn": "screwed", "tap": "fixed", "glue": "glued",
    "wipe": "clean", "wrap": "taped", "shake": "salted", "stir": "stirred",
}  # fmt: skip


def first_look(kind: str, tags: frozenset[str], *, full: bool = False) -> Look:
    """Return the appearance at the start of the episode."""
    if full or "full" in tags:
        return Look("filled", content=frozenset({"water", "tea bag"}), fill=3)
    state = next((tag for tag in ("open", "dirty") if tag in tags), KINDS[kind].state)
    return Look(state, tags)


def look_after(kind: str, look: Look, verb: str, fluid: str, with_kind: str, share: float) -> Look:
    """Return the appearance when `share` of the action is done."""
    level = max(1, round(3 * share))
    if verb == "pour":
        base = look.fill if share < 0.5 else look.fill - 1
        return Look(
            "filled", look.tags, look.content | {fluid}, min(3, max(base + 1, level - 1, 1)), look.level
        )
    if verb == "add":
        return Look("filled", look.tags, look.content | {"powder"}, max(look.fill, 1), look.level)
    if verb == "drink":
        fill = 0 if share >= 1 else 2
        return Look("empty" if fill == 0 else "filled", look.tags, look.content, fill, look.level)
    if verb == "put":
        state = "filled" if KINDS[kind].deep or kind == "plate" else look.state
        return Look(state, look.tags | {f"+{with_kind}"}, look.content | {with_kind}, look.fill, look.level)
    if verb in ("open", "close"):
        tags = look.tags | {"open"} if verb == "open" else look.tags - {"open"}
        return Look("open" if verb == "open" else "closed", tags, look.content, look.fill, look.level)
    if verb == "switch on":
        return Look("on", look.tags | {"on"}, look.content, look.fill, look.level)
    if verb == "wipe":
        tags = look.tags - {"dirty"} if share >= 1 else look.tags
        return Look("clean" if share >= 1 else "dirty", tags, look.content, look.fill, level)
    tags = look.tags | {verb}
    done = share >= 1 or verb in ("spread", "write", "wrap")
    if verb == "cut" and share < 1:
        return Look(look.state, look.tags, look.content, look.fill, look.level)
    return Look(_WORD[verb] if done else look.state, tags, look.content, look.fill, level)


_FLUIDS: dict[frozenset[str], Colour] = {
    frozenset({"water"}): (225, 205, 170), frozenset({"milk"}): (232, 244, 248),
    frozenset({"water", "tea bag"}): (30, 95, 190), frozenset({"powder"}): (28, 50, 82),
    frozenset({"water", "powder"}): (22, 38, 62), frozenset({"soup"}): (40, 120, 228),
    frozenset({"oil"}): (60, 190, 215), frozenset({"muesli"}): (95, 160, 205),
}  # fmt: skip


def fluid_colour(content: frozenset[str]) -> Colour:
    """Return the colour (BGR) of what is in a cup or dish."""
    liquid = content & {"water", "tea bag", "powder", "soup", "oil", "muesli"}
    base = _FLUIDS.get(liquid)
    if base is None:
        base = next(
            (_FLUIDS[frozenset({f})] for f in ("soup", "muesli", "oil", "powder", "water") if f in liquid),
            None,
        )
    milk = _FLUIDS[frozenset({"milk"})]
    if base is None:
        return milk
    return mixed(base, milk, 0.5) if "milk" in content else base
