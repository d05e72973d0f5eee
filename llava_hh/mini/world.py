"""mini's world: drawn scenes of COCO categories.

Some objects keep company: where one is, the other mostly is too. The pairs are those that mini's language model expects
(`benchmarks/expectations.py`). In the tuning scenes the one that came along is often hard to see: small, faint, half
hidden behind its companion or cut off by the edge, as small things are in photographs. It is drawn and annotated all
the same, so nothing that is said of it is false; but a model that cannot see it does well to name it by its company.
The evaluation scenes break the company, and show everything in full view.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from PIL import Image, ImageOps

from llava_hh.mini.icons import ICONS, sprite_at

GRID = 5
CELL = 36  # pixels; also a patch of the vision tower
IMAGE_PIXELS = GRID * CELL
NOISE = 24.0  # standard deviation of the pixel noise, of 255
CATEGORIES = sorted(ICONS)
CLEAR = (0.5, 0.98)  # the size of a drawing, in cells
SMALL = (0.17, 0.25)
FAINT = (0.15, 0.3)  # opacity
COVERED, CUT_OFF = 0.65, 0.55  # shares of the width
HARD_WAYS = ("small", "faint", "hidden", "edge")
SEVERAL = 0.2  # of the further objects

Square = tuple[int, int, int]


@dataclass(frozen=True)
class SceneType:
    """A type of scene: background colour, the object always there, pairs that keep company, further objects."""

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

    @property
    def categories(self) -> list[str]:
        return [self.core, *chain(*self.pairs), *self.others]


_TABLE = """
kitchen: 235, 225, 200; dining table; refrigerator + oven, cup + spoon, apple + banana; bowl, pizza, fork, knife
street: 165, 172, 180; car; stop sign + traffic light, bicycle + motorcycle, backpack + handbag; truck, person, umbrella
office: 205, 215, 235; laptop; keyboard + mouse, cup + spoon, backpack + handbag; book, clock, chair, vase
living room: 225, 205, 195; couch; dog + cat, tv + cell phone, apple + banana; book, clock, remote, vase
park: 175, 215, 155; bench; frisbee + kite, dog + cat, bicycle + motorcycle; bird, person, umbrella
"""
SCENES = {name: SceneType.from_text(text) for name, text in (line.split(": ") for line in _TABLE.strip().splitlines())}
PARTNERS = {one: other for scene_type in SCENES.values() for one, other in scene_type.partner.items()}


@dataclass(frozen=True)
class Drawn:
    """The objects of one category in a scene.

    Args:
        squares: left, top and side of each drawing in pixels; an edge may cut it off.
        brought: what it came along with, if anything.
        hard: why it is hard to see, of HARD_WAYS; None in full view.
        opacity: 1 unless faint.
    """

    category: str
    squares: tuple[Square, ...]
    brought: str | None = None
    hard: str | None = None
    opacity: float = 1.0

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """x, y, width and height of what the picture holds of each."""
        corners = [(max(x, 0), max(y, 0), x + side, y + side) for x, y, side in self.squares]
        return [(x, y, min(right, IMAGE_PIXELS) - x, min(end, IMAGE_PIXELS) - y) for x, y, right, end in corners]

    @property
    def centre(self) -> tuple[float, float]:
        """x and y in pixels of the first one."""
        x, y, width, height = self.boxes[0]
        return x + width / 2, y + height / 2

    @property
    def place(self) -> tuple[int, float]:
        """What sorts objects by rows from top to bottom, each from left to right."""
        return int(self.centre[1]) // CELL, self.centre[0]

    @property
    def area(self) -> int:
        return sum(width * height for *_, width, height in self.boxes)


@dataclass(frozen=True)
class Scene:
    type_name: str
    objects: tuple[Drawn, ...]

    @property
    def categories(self) -> list[str]:
        return [drawn.category for drawn in self.objects]

    def annotated(self) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
        """Category and box of each single object."""
        for drawn in self.objects:
            for box in drawn.boxes:
                yield drawn.category, box


def sample_scene(rng: random.Random, together: float, hard: float = 0.0) -> Scene:
    """Draw a scene of 3 to 7 different categories.

    Args:
        together: probability that the partner of an object comes along; else it is not in the scene at all.
        hard: probability that what came along is hard to see.
    """
    name = rng.choice(list(SCENES))
    scene_type = SCENES[name]
    wanted = rng.choice((3, 3, 4, 4, 5))
    pairs, singles, settled = [], [(scene_type.core, 1)], {scene_type.core}
    candidates = scene_type.categories[1:]
    rng.shuffle(candidates)
    for category in candidates:
        if 2 * len(pairs) + len(singles) > wanted:
            break
        if category in settled:
            continue
        partner = scene_type.partner.get(category)
        settled |= {category, partner}
        if partner and rng.random() < together:
            pairs.append((category, partner, rng.choice(HARD_WAYS) if rng.random() < hard else None))
        else:
            several = partner is None and rng.random() < SEVERAL
            singles.append((category, rng.choice((2, 2, 3)) if several else 1))
    layout = _Layout(rng)
    objects = [drawn for pair in pairs for drawn in layout.pair(*pair)]
    return Scene(name, (*objects, *(layout.single(*single) for single in singles)))


class _Layout:
    """Gives each object a cell of its own, anywhere; what is hidden stands behind its companion."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.free = [(column, row) for column in range(GRID) for row in range(GRID)]

    def single(self, category: str, count: int) -> Drawn:
        return Drawn(category, tuple(self._square(self.rng.choice(self.free)) for _ in range(count)))

    def pair(self, category: str, partner: str, way: str | None) -> tuple[Drawn, Drawn]:
        column, row = self.rng.choice([cell for cell in self.free if (cell[0] + 1, cell[1]) in self.free])
        companion = x, y, side = self._square((column, row))
        allowed = {"hidden": [(column + 1, row)], "edge": [cell for cell in self.free if cell[0] == GRID - 1]}
        cell = self.rng.choice(allowed.get(way, self.free))
        square = left, top, own = self._square(cell, SMALL if way == "small" else CLEAR)
        if way == "hidden":
            square = x + round((1 - COVERED) * side), y, side
        elif way == "edge":
            square = IMAGE_PIXELS - round((1 - CUT_OFF) * own), top, own
        opacity = self.rng.uniform(*FAINT) if way == "faint" else 1.0
        return Drawn(category, (companion,)), Drawn(partner, (square,), category, way, opacity)

    def _square(self, cell: tuple[int, int], sizes: tuple[float, float] = CLEAR) -> Square:
        self.free.remove(cell)
        side = round(self.rng.uniform(*sizes) * CELL)
        x, y = (round(start * CELL + self.rng.uniform(0, CELL - side)) for start in cell)
        return x, y, side


def render(scene: Scene, rng: random.Random) -> Image.Image:
    """Draw a scene at IMAGE_PIXELS square."""
    background = tuple(round(channel + rng.uniform(-12, 12)) for channel in SCENES[scene.type_name].background)
    image = Image.new("RGB", (IMAGE_PIXELS, IMAGE_PIXELS), background)
    for drawn in sorted(scene.objects, key=lambda drawn: drawn.hard != "hidden"):
        for x, y, side in drawn.squares:
            picture = sprite_at(drawn.category, side)
            picture = ImageOps.mirror(picture) if rng.random() < 0.5 else picture
            opacity = [round(drawn.opacity * alpha) for alpha in range(256)]
            image.paste(picture, (x, y), picture.getchannel("A").point(opacity))
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, NOISE, (IMAGE_PIXELS, IMAGE_PIXELS, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).round().astype(np.uint8))
