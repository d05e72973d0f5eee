"""The seeded sample of images, drawn as the paper draws it."""

import random
from collections.abc import Mapping, Sequence
from typing import Any


def sample_images(images: Sequence[Mapping[str, Any]], n: int | None, seed: int = 42) -> list[dict[str, Any]]:
    """Return `n` of `images` in the order in which they were drawn, the paper's way.

    The paper draws `random.seed(42); random.sample(ids, n)` from the ids in the order of the captions file's list
    `images`, so the same file, n and seed give the paper's images. With n None, or larger than the list, nothing is
    drawn: all images, in file order.

    Raises:
        ValueError: a negative n.
    """
    if n is not None and n < 0:
        raise ValueError(f"number of images {n}: expected 0 or more")
    if n is None or n > len(images):
        return [dict(image) for image in images]
    return [dict(image) for image in random.Random(seed).sample(list(images), n)]
