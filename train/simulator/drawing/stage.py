"""Cache of what is drawn once for an episode: its scene and its objects' sprites."""

from collections import OrderedDict
from dataclasses import dataclass, field

from egolive.train.simulator.drawing.scene import Scene, build_scene
from egolive.train.simulator.objects.appearance import Look
from egolive.train.simulator.objects.kinds import KINDS
from egolive.train.simulator.objects.paint import Colour
from egolive.train.simulator.objects.sprites import Sprite, draw_sprite, thing_colour
from egolive.train.simulator.planning.plan import Plan, episode_rng

__all__ = ["Stage", "sprite_of", "stage_of"]

_KEPT_STAGES = 12


@dataclass(slots=True)
class Stage:
    """What is drawn once for an episode and one picture size."""

    scene: Scene
    colours: dict[str, tuple[Colour, Colour, int]]
    sprites: dict[tuple[str, Look], Sprite] = field(default_factory=dict)


_stages: OrderedDict[tuple[tuple[int, str, int], tuple[int, int]], Stage] = OrderedDict()


def stage_of(plan: Plan, size: tuple[int, int]) -> Stage:
    """Return the stage of an episode for one picture size, drawing it where it is not kept."""
    key = (plan.key, size)
    stage = _stages.get(key)
    if stage is None:
        rng = episode_rng(*plan.key, 3)
        colours = {}
        for kind in sorted(KINDS):  # all kinds, so that a colour does not depend on what else lies there
            accent = thing_colour(rng, "mug", plan.split)
            style = int(rng.choice([0, 0, 1] if plan.split == "train" else [0, 2, 3]))
            colours[kind] = (thing_colour(rng, kind, plan.split), accent, style)
        stage = _stages[key] = Stage(build_scene(plan, size), colours)
        while len(_stages) > _KEPT_STAGES:
            _stages.popitem(last=False)
    _stages.move_to_end(key)
    return stage


def sprite_of(stage: Stage, kind: str, look: Look, scale: float) -> Sprite:
    """Return an object's sprite in one appearance, drawing it on first use."""
    sprite = stage.sprites.get((kind, look))
    if sprite is None:
        colour, accent, style = stage.colours[kind]
        scene = stage.scene
        sprite = draw_sprite(
            kind, look, colour, accent, style, 1.25 * scale, scene.grain, scene.light, scene.dark
        )
        stage.sprites[kind, look] = sprite
    return sprite
