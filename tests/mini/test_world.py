"""mini's world: what keeps company, what is hard to see, and that everything which is annotated is drawn."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from llava_hh.metrics.chair.chair import find_objects
from llava_hh.metrics.chair.variants import load_synonyms
from llava_hh.mini.talk import article, in_reading_order
from llava_hh.mini.world import CATEGORIES, CELL, HARD_WAYS, SCENES, Drawn, Scene, render, sample_scene


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_is_countable_by_chair(category):
    assert category in load_synonyms()
    for text in (f"There is {article(category)}.", f"It has {article(category)}, a fork and a kite."):
        assert find_objects(text)[0].node == category


def test_partners_come_together_as_often_as_said_and_are_as_often_hard_to_see():
    rng, pairs, together, hard = random.Random(1), 0, 0, Counter()
    for _ in range(4000):
        scene = sample_scene(rng, together=0.45, hard=0.4)
        drawn = {each.category: each for each in scene.objects}
        assert all(each.brought or each.hard is None for each in scene.objects)
        for one, other in SCENES[scene.type_name].pairs:
            pairs += one in drawn or other in drawn
            if one in drawn and other in drawn:
                together += 1
                hard[drawn[one].hard or drawn[other].hard] += 1
    assert together / pairs == pytest.approx(0.45, abs=0.02)
    for way in HARD_WAYS:
        assert hard[way] / together == pytest.approx(0.1, abs=0.015)


def test_objects_are_different_and_lie_in_cells_of_their_own():
    rng = random.Random(2)
    for _ in range(500):
        scene = sample_scene(rng, together=0.9, hard=0.5)
        assert 3 <= len(scene.objects) <= 7 and len(set(scene.categories)) == len(scene.objects)
        squares = [square for each in scene.objects if each.hard not in ("hidden", "edge") for square in each.squares]
        cells = {(x // CELL, y // CELL) for x, y, _ in squares}
        assert len(cells) == len(squares)
        assert cells == {((x + side - 1) // CELL, (y + side - 1) // CELL) for x, y, side in squares}


def test_company_is_anywhere_and_told_right_after_its_companion():
    """So that a picture says nothing of where to look for what is not seen; what was said last does."""
    rng, steps = random.Random(2), Counter()
    for _ in range(500):
        scene = sample_scene(rng, together=0.9)
        told = in_reading_order(scene)
        alone = [each for each in told if not each.brought]
        assert alone == sorted(alone, key=lambda each: each.place)
        for before, each in pairwise(told):
            if each.brought:
                assert before.category == each.brought
                steps[tuple(np.subtract(each.centre, before.centre).astype(int) // CELL)] += 1
    assert len(steps) > 40 and max(steps.values()) < 0.1 * steps.total()


def test_what_is_hard_to_see_is_drawn():
    """Each changes the picture within its box and nowhere else; a half hidden one is behind its companion."""
    seen = Counter()
    rng = random.Random(3)
    while min(seen[way] for way in HARD_WAYS) < 20:
        scene = sample_scene(rng, together=1, hard=1)
        for hard in (each for each in scene.objects if each.hard):
            without = Scene(scene.type_name, tuple(each for each in scene.objects if each is not hard))
            first, second = (pixels_without_noise(each) for each in (scene, without))
            changed = np.argwhere((first != second).any(-1))
            [(x, y, width, height)] = hard.boxes
            assert len(changed) >= 6, hard
            assert x <= changed[:, 1].min() and changed[:, 1].max() < x + width
            assert y <= changed[:, 0].min() and changed[:, 0].max() < y + height
            seen[hard.hard] += 1


def pixels_without_noise(scene: Scene) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llava_hh.mini.world.NOISE", 0)
        return np.asarray(render(scene, Unmirrored(1)))


class Unmirrored(random.Random):
    """Draws no mirror image, so that scenes with another number of objects are alike."""

    def random(self) -> float:
        return 0.9


def test_boxes_end_where_the_picture_does():
    drawn = Drawn("cat", ((-10, 4, 30), (160, 150, 40)))
    assert drawn.boxes == [(0, 4, 20, 30), (160, 150, 20, 30)]
    assert drawn.centre == (10, 19) and drawn.place == (0, 10) and drawn.area == 20 * 30 + 20 * 30
