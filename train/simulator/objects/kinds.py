"""The geometry of each kind of object: extent, grip point, tip, opening.

Lengths are world units: one pixel of a 448x252 picture with the camera at rest. Points are relative to the
middle of the upright object, x to the right and y down; a tool's tip points up.
"""

from dataclasses import dataclass

__all__ = ["KINDS", "Kind", "Point"]

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind of object is handled.

    `grip` names the hand pose of the acting hand at `grip_at`; `hold` and `hold_at` are those of the hand
    that steadies it. `state` is its first state. A `deep` kind hides what is put into it; one that
    `lies` is flat and may be turned.
    """

    width: float
    height: float
    grip: str
    grip_at: Point
    tip: Point = (0.0, 0.0)
    mouth: Point = (0.0, 0.0)
    hold: str = "edge"
    hold_at: Point = (0.0, 0.0)
    state: str = "whole"
    deep: bool = False
    lies: bool = False


KINDS: dict[str, Kind] = {
    "apple": Kind(36, 38, "top", (2, -4), mouth=(0, 0), hold="pinch", hold_at=(-13, 0)),
    "bottle": Kind(
        30, 88, "wrap", (11, 8), tip=(0, -43), mouth=(0, -40), hold="wrap", hold_at=(-11, 12), state="closed"
    ),
    "bowl": Kind(
        78, 50, "wrap", (34, -4), mouth=(0, -12), hold="wrap", hold_at=(-34, -2), state="empty", deep=True
    ),
    "box": Kind(
        84,
        66,
        "wrap",
        (36, 0),
        tip=(-30, -28),
        mouth=(0, -14),
        hold="wrap",
        hold_at=(-38, 4),
        state="closed",
        deep=True,
    ),
    "bread": Kind(66, 50, "flat", (14, 6), mouth=(0, 0), hold="edge", hold_at=(-24, 4)),
    "card": Kind(62, 46, "pinch", (26, 12), mouth=(0, 0), hold="edge", hold_at=(-24, 8), state="blank"),
    "carton": Kind(38, 80, "wrap", (15, 6), tip=(-10, -38), hold="wrap", hold_at=(-15, 8)),
    "cloth": Kind(70, 52, "flat", (4, 2), state="dry", lies=True),
    "glass": Kind(
        38, 60, "wrap", (15, 4), mouth=(0, -23), hold="wrap", hold_at=(-15, 4), state="empty", deep=True
    ),
    "glue": Kind(28, 68, "wrap", (9, 8), tip=(0, -33), hold="wrap", hold_at=(-9, 6)),
    "hammer": Kind(46, 90, "fist", (0, 26), tip=(-18, -34), lies=True),
    "jar": Kind(
        44, 58, "wrap", (18, 5), mouth=(0, -22), hold="wrap", hold_at=(-18, 6), state="closed", deep=True
    ),
    "kettle": Kind(80, 78, "wrap", (35, 0), tip=(-38, -16), mouth=(0, -28), hold="wrap", hold_at=(-22, 8)),
    "knife": Kind(13, 92, "fist", (0, 30), tip=(0, -22), lies=True),
    "lamp": Kind(52, 94, "press", (0, 38), mouth=(0, 38), hold="wrap", hold_at=(-14, 30), state="off"),
    "mug": Kind(
        54, 52, "wrap", (20, 2), mouth=(-5, -17), hold="wrap", hold_at=(-24, 4), state="empty", deep=True
    ),
    "notebook": Kind(80, 62, "flat", (28, 10), mouth=(0, 0), hold="edge", hold_at=(-32, 14), state="closed"),
    "pen": Kind(8, 66, "pinch", (0, -10), tip=(0, -32), lies=True),
    "plate": Kind(88, 54, "wrap", (38, 2), mouth=(0, -2), hold="wrap", hold_at=(-40, 4), state="empty"),
    "radio": Kind(84, 58, "press", (24, 6), mouth=(0, -8), hold="wrap", hold_at=(-40, 4), state="off"),
    "scissors": Kind(36, 78, "fist", (0, 26), tip=(0, -26), lies=True),
    "screwdriver": Kind(15, 88, "fist", (0, 26), tip=(0, -42), lies=True),
    "shaker": Kind(26, 44, "wrap", (9, 4), tip=(0, -21), hold="wrap", hold_at=(-9, 4)),
    "spoon": Kind(15, 76, "pinch", (0, 18), tip=(0, -30), lies=True),
    "tape": Kind(46, 42, "pinch", (16, 4), tip=(0, 0), hold="wrap", hold_at=(-18, 2)),
    "tea bag": Kind(30, 40, "pinch", (4, -16), tip=(0, 6), lies=True),
    "tomato": Kind(36, 33, "top", (2, -4), mouth=(0, 0), hold="pinch", hold_at=(-13, 0)),
    "toy car": Kind(76, 44, "wrap", (32, -2), mouth=(0, -6), hold="wrap", hold_at=(-34, 0), state="broken"),
}
