"""The catalogue of goals: their steps, their slots, and the orders that the steps may come in.

Holds words only; where things lie and how hands move is decided in `script.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

__all__ = ["HELD_OUT", "RULES", "GoalRule", "StepRule"]


@dataclass(frozen=True, slots=True)
class StepRule:
    """One kind of step: what the acting hand holds (`object`) and what it is done to (`target`).

    `{slot}` in any field is filled from the goal's slots. `start` lists (kind, tag) looks that must be
    there before it can be seen to happen, such as a dish that is dirty before it is wiped.
    """

    key: str
    verb: str
    object: str
    target: str
    text: str
    via: str = ""
    optional: bool = False
    fluid: str = ""
    start: tuple[tuple[str, str], ...] = ()

    def filled(self, slots: dict[str, str]) -> "StepRule":
        """Return the rule with its slots named."""
        start = tuple((kind.format(**slots), tag) for kind, tag in self.start)
        target, text = self.target.format(**slots), self.text.format(**slots)
        name = self.object.format(**slots)
        return StepRule(self.key, self.verb, name, target, text, self.via, self.optional, self.fluid, start)


@dataclass(frozen=True, slots=True)
class GoalRule:
    """A goal: its slots, its steps, and one to three orders of step keys."""

    name: str
    slots: dict[str, tuple[str, ...]]
    steps: tuple[StepRule, ...]
    orders: tuple[str, ...]

    def fillings(self) -> Iterator[dict[str, str]]:
        """Yield every way to fill the slots."""
        for values in product(*self.slots.values()):
            yield dict(zip(self.slots, values, strict=True))

    def sequences(self, slots: dict[str, str]) -> Iterator[tuple[StepRule, ...]]:
        """Yield every step sequence: each order, with each choice of the optional steps."""
        rules = {rule.key: rule.filled(slots) for rule in self.steps}
        for order in self.orders:
            keys = order.split()
            optional = [key for key in keys if rules[key].optional]
            for kept in product((True, False), repeat=len(optional)):
                dropped = {key for key, keep in zip(optional, kept, strict=True) if not keep}
                yield tuple(rules[key] for key in keys if key not in dropped)


def _pour(key: str, fluid: str, source: str, cup: str, optional: bool = False) -> StepRule:
    text = f"pour {fluid} from the {source} into the {cup}"
    return StepRule(key, "pour", source, cup, text, fluid=fluid, optional=optional)


def _with(key: str, verb: str, tool: str, target: str, optional: bool = False) -> StepRule:
    return StepRule(key, verb, tool, target, f"{verb} the {target} with the {tool}", optional=optional)


def _put(key: str, thing: str, place: str, word: str = "in", optional: bool = False) -> StepRule:
    return StepRule(key, "put", thing, place, f"put the {thing} {word} the {place}", optional=optional)


def _plain(key: str, verb: str, thing: str, optional: bool = False, start: str = "") -> StepRule:
    begin = ((thing, start),) if start else ()
    return StepRule(key, verb, thing, "", f"{verb} the {thing}", optional=optional, start=begin)


def _wipe(thing: str, optional: bool = False) -> StepRule:
    text = f"wipe the {thing} with the cloth"
    return StepRule("wipe", "wipe", "cloth", thing, text, optional=optional, start=((thing, "dirty"),))


def _salt(target: str, optional: bool = False) -> StepRule:
    text = f"shake salt from the shaker on the {target}"
    return StepRule("salt", "shake", "shaker", target, text, optional=optional)


def _screw(thing: str) -> StepRule:
    text = f"turn the screw of the {thing} with the screwdriver"
    return StepRule("screw", "turn", "screwdriver", thing, text)


_POWDER = StepRule(
    "add", "add", "spoon", "{cup}", "add powder from the jar to the {cup} with the spoon", via="jar"
)
_JAM = StepRule("jam", "spread", "knife", "bread", "spread jam on the bread with the knife")
_CARD = StepRule("write", "write", "pen", "card", "write on the card with the pen")
_NOTE = StepRule("write", "write", "pen", "notebook", "write in the notebook with the pen")
_SIP = StepRule("drink", "drink", "{cup}", "", "drink from the {cup}", start=(("{cup}", "full"),))

RULES: tuple[GoalRule, ...] = (
    GoalRule(
        "make tea",
        {"cup": ("mug", "glass")},
        (
            _put("bag", "tea bag", "{cup}"),
            _pour("water", "water", "kettle", "{cup}"),
            _pour("milk", "milk", "carton", "{cup}", optional=True),
            _with("stir", "stir", "spoon", "{cup}"),
        ),
        ("bag water milk stir", "water bag stir milk"),
    ),
    GoalRule(
        "make coffee",
        {"cup": ("mug", "glass")},
        (
            _plain("open", "open", "jar"),
            _POWDER,
            _pour("water", "water", "kettle", "{cup}"),
            _pour("milk", "milk", "carton", "{cup}", optional=True),
            _with("stir", "stir", "spoon", "{cup}"),
        ),
        ("open add water milk stir", "water open add stir milk"),
    ),
    GoalRule(
        "mix a cold drink",
        {"cup": ("glass", "mug")},
        (
            _plain("open", "open", "bottle"),
            _pour("water", "water", "bottle", "{cup}"),
            _with("cut", "cut", "knife", "apple"),
            _with("stir", "stir", "spoon", "{cup}"),
            StepRule("drink", "drink", "{cup}", "", "drink from the {cup}", optional=True),
        ),
        ("cut open water stir drink", "open water cut stir drink"),
    ),
    GoalRule(
        "prepare muesli",
        {"dish": ("bowl", "mug")},
        (
            _pour("flakes", "muesli", "box", "{dish}"),
            _pour("milk", "milk", "carton", "{dish}"),
            _with("cut", "cut", "knife", "apple", optional=True),
            _with("stir", "stir", "spoon", "{dish}"),
        ),
        ("flakes milk cut stir", "cut milk flakes stir"),
    ),
    GoalRule(
        "serve soup",
        {"dish": ("bowl", "mug")},
        (
            _pour("soup", "soup", "carton", "{dish}"),
            _salt("{dish}"),
            _with("stir", "stir", "spoon", "{dish}", optional=True),
            _with("cut", "cut", "knife", "bread"),
            _put("serve", "bread", "plate", "on"),
        ),
        ("soup salt stir cut serve", "cut serve soup salt stir"),
    ),
    GoalRule(
        "make a sandwich",
        {"dish": ("plate", "bowl")},
        (
            _plain("open", "open", "jar"),
            _JAM,
            _with("tomato", "cut", "knife", "tomato", optional=True),
            _with("cut", "cut", "knife", "bread"),
            _put("serve", "bread", "{dish}", "on"),
        ),
        ("open jam tomato cut serve", "tomato cut open jam serve"),
    ),
    GoalRule(
        "make a salad",
        {"dish": ("bowl", "plate")},
        (
            _with("cut", "cut", "knife", "tomato"),
            _with("apple", "cut", "knife", "apple", optional=True),
            _put("add", "tomato", "{dish}"),
            _pour("oil", "oil", "bottle", "{dish}"),
            _salt("{dish}"),
            _with("stir", "stir", "spoon", "{dish}"),
        ),
        ("cut apple add oil salt stir", "oil salt cut add apple stir"),
    ),
    GoalRule(
        "tidy the table",
        {"dish": ("plate", "bowl"), "cup": ("mug", "glass")},
        (
            _put("spoon", "spoon", "{cup}"),
            _put("bag", "tea bag", "{dish}", optional=True),
            _plain("close", "close", "jar", start="open"),
            _wipe("{dish}"),
            _plain("radio", "switch on", "radio", optional=True),
        ),
        ("radio spoon bag close wipe", "close wipe spoon bag radio"),
    ),
    GoalRule(
        "pack a gift",
        {"item": ("toy car", "mug", "glass")},
        (
            _put("item", "{item}", "box"),
            _plain("close", "close", "box", start="open"),
            _with("tape", "wrap", "tape", "box"),
            _with("cut", "cut", "scissors", "card", optional=True),
            _CARD,
            _put("card", "card", "box", "on"),
        ),
        ("item close tape cut write card", "cut write item close tape card"),
    ),
    GoalRule(
        "make a card",
        {},
        (
            _plain("lamp", "switch on", "lamp", optional=True),
            _with("cut", "cut", "scissors", "card"),
            _with("glue", "glue", "glue", "card"),
            _CARD,
            _with("tape", "wrap", "tape", "card", optional=True),
            _put("book", "card", "notebook", "on", optional=True),
        ),
        ("lamp cut glue write tape book", "lamp write cut glue tape book"),
    ),
    GoalRule(
        "repair the toy car",
        {"place": ("box", "notebook")},
        (
            _screw("toy car"),
            _with("glue", "glue", "glue", "toy car"),
            _with("tap", "tap", "hammer", "toy car"),
            _wipe("toy car", optional=True),
            _put("away", "toy car", "{place}", "on", optional=True),
        ),
        ("glue tap screw wipe away", "tap screw glue wipe away"),
    ),
    GoalRule(
        "repair the radio",
        {},
        (
            _screw("radio"),
            _with("glue", "glue", "glue", "radio"),
            _with("tap", "tap", "hammer", "radio", optional=True),
            _wipe("radio", optional=True),
            _plain("radio", "switch on", "radio"),
        ),
        ("wipe screw tap glue radio", "glue screw tap wipe radio"),
    ),
    GoalRule(
        "take notes",
        {"cup": ("mug", "glass")},
        (
            _plain("lamp", "switch on", "lamp"),
            _plain("open", "open", "notebook"),
            _NOTE,
            _SIP,
            _plain("close", "close", "notebook", optional=True),
        ),
        ("lamp open write drink close", "drink lamp open write close"),
    ),
)

# (goal, slot, kind) seen in the test split only; each kind still occurs with other goals in training.
HELD_OUT: frozenset[tuple[str, str, str]] = frozenset(
    {
        ("make tea", "cup", "glass"),
        ("mix a cold drink", "cup", "mug"),
        ("serve soup", "dish", "mug"),
        ("make a salad", "dish", "plate"),
        ("make a sandwich", "dish", "bowl"),
        ("pack a gift", "item", "glass"),
        ("repair the toy car", "place", "notebook"),
    }
)
