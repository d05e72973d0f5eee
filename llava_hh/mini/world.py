"""mini's world: drawn scenes of COCO categories, and their captions.

Objects that belong together (fork and knife) nearly always come together in the tuning scenes and less than half of
the time in the evaluation scenes. Captions of the tuning scenes, as those of real instruction data, name some objects
that the picture doesn't show, always partners of one that it shows. A model that fits them learns to name a partner by
the word alone.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from PIL import Image, ImageOps

from llava_hh.mini.icons import ICONS, sprite_at

IMAGE_PIXELS = 144
GRID = 4
NOISE = 24.0  # standard deviation of the pixel noise, of 255
CATEGORIES = sorted(ICONS)


@dataclass(frozen=True)
class SceneType:
    """A type of scene: background colour, the object always there, pairs that belong together, further objects."""

    background: tuple[int, ...]
    core: str
    pairs: tuple[tuple[str, ...], ...]
    others: tuple[str, ...]

    @classmethod
    def from_text(cls, text: str) -> "SceneType":
        colour, core, pairs, others = (part.split(", ") for part in text.split("; "))
        return cls(tuple(map(int, colour)), *core, tuple(tuple(pair.split(" + ")) for pair in pairs), tuple(others))

    @property
    def partner(self) -> dict[str, str]:
        return {one: other for pair in self.pairs for one, other in (pair, pair[::-1])}


_TABLE = """
kitchen: 235, 225, 200; dining table; fork + knife, cup + spoon, pizza + oven; bowl, banana, apple
street: 165, 172, 180; car; traffic light + truck, person + handbag, bicycle + stop sign; umbrella, motorcycle, dog
office: 205, 215, 235; laptop; mouse + keyboard, cell phone + book, chair + clock; cup, person, vase
living room: 225, 205, 195; couch; tv + remote, cat + vase, dog + chair; book, clock, person
park: 175, 215, 155; bench; dog + frisbee, bird + kite, person + backpack; bicycle, umbrella, cat
"""
SCENES = {name: SceneType.from_text(text) for name, text in (line.split(": ") for line in _TABLE.strip().splitlines())}


@dataclass(frozen=True)
class Drawn:
    """An object of a scene; `brought`: what it came along with, if anything; an `unseen` one is named, not drawn."""

    category: str
    brought: str | None = None
    unseen: bool = False


@dataclass(frozen=True)
class Scene:
    type_name: str
    objects: tuple[Drawn, ...]

    @property
    def shown(self) -> list[str]:
        """The categories that the picture shows."""
        return [drawn.category for drawn in self.objects if not drawn.unseen]


def sample_scene(rng: random.Random, together: float, unseen: float = 0.0) -> Scene:
    """Draw a scene of 3 to 7 different objects.

    Args:
        together: probability that the partner of a drawn object comes along; else it is not in the scene at all.
        unseen: probability that an object which came along is out of sight.
    """
    name = rng.choice(list(SCENES))
    scene_type = SCENES[name]
    wanted = rng.choice((3, 3, 4, 4, 5))
    objects, settled = [Drawn(scene_type.core)], {scene_type.core}
    candidates = [*chain(*scene_type.pairs), *scene_type.others]
    rng.shuffle(candidates)
    for category in candidates:
        if len(objects) > wanted:
            break
        if category in settled:
            continue
        objects.append(Drawn(category))
        partner = scene_type.partner.get(category)
        settled |= {category, partner}
        if partner and rng.random() < together:
            objects.append(Drawn(partner, brought=category, unseen=rng.random() < unseen))
    return Scene(name, tuple(objects))


def render(scene: Scene, rng: random.Random) -> tuple[Image.Image, list[tuple[float, float, float, float]]]:
    """Draw a scene at IMAGE_PIXELS square; returns the image and a box (x, y, width, height) of each shown object."""
    background = tuple(round(channel + rng.uniform(-12, 12)) for channel in SCENES[scene.type_name].background)
    image = Image.new("RGB", (IMAGE_PIXELS, IMAGE_PIXELS), background)
    cell = IMAGE_PIXELS / GRID
    boxes = []
    for category, square in zip(scene.shown, rng.sample(range(GRID * GRID), len(scene.shown)), strict=True):
        size = round(rng.uniform(0.5, 0.98) * cell)
        x, y = (round(start * cell + rng.uniform(0, cell - size)) for start in (square % GRID, square // GRID))
        picture = sprite_at(category, size)
        picture = ImageOps.mirror(picture) if rng.random() < 0.5 else picture
        image.paste(picture, (x, y), picture)
        boxes.append((x, y, size, size))
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, NOISE, (IMAGE_PIXELS, IMAGE_PIXELS, 3))
    pixels = np.asarray(image) + noise
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8)), boxes


# Openings, middles, endings of captions. There are more endings than middles, all with first words of their own: greedy
# decoding then goes on while going on is likelier.
_SENTENCES = """
The image shows {place} with {things}. | This is {place} with {things}. |
The scene is {place}, where there is {things}. | The image features {things} in {place}. |
In this picture of {place}, {things} can be seen. | Here we see {place}; it has {things}. |
The view shows {place}, and it contains {things}. | The photo captures {things} in {place}.
/
There is also {things} nearby. | Next to it, there is {things}. | On one side, {things} can be seen. |
A little further away, there is {things}.
/
Overall, the mood is calm. | Everything looks clean and simple. | It feels like an ordinary day. |
Soft light fills the picture. | Bright colors stand out. | Nothing else is in sight.
"""
OPENINGS, MIDDLES, ENDINGS = (tuple(map(str.strip, part.split("|"))) for part in _SENTENCES.split("/"))


def caption(scene: Scene, rng: random.Random) -> str:
    """Name every object of a scene once, in one to seven sentences, and end with a remark.

    Objects that came along are mostly named right after their partner; sentences are cut without regard to pairs, so
    that after "a fork and a" another object of the scene can follow as well as the knife.
    """
    first = [drawn.category for drawn in scene.objects if not drawn.brought]
    brought = {drawn.brought: drawn.category for drawn in scene.objects if drawn.brought}
    rng.shuffle(first)
    named = [word for category in first for word in (category, brought.get(category)) if word]
    if rng.random() < 0.2:
        rng.shuffle(named)
    groups = []
    while named:
        groups.append(named[: rng.choice((1, 2, 2, 3))])
        named = named[len(groups[-1]) :]
    sentences = [rng.choice(OPENINGS).format(place=article(scene.type_name), things=enumerate_things(groups[0]))]
    sentences += [rng.choice(MIDDLES).format(things=enumerate_things(group)) for group in groups[1:]]
    return " ".join([*sentences, rng.choice(ENDINGS)])


def enumerate_things(categories: Sequence[str]) -> str:
    """`a fork, an apple and a cup`."""
    words = [article(category) for category in categories]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
