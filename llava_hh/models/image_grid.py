"""Where in the picture an image's tokens look: rows of equal cells over a box."""

import math
from typing import NamedTuple

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)  # the picture, squashed if it must be


class ImageGrid(NamedTuple):
    """Tokens row by row, from the upper left.

    box: left, top, right, bottom, as fractions of the picture's width and height; outside 0 to 1 is padding.
    """

    rows: int
    columns: int
    box: Box


def padded_square(size: tuple[int, int]) -> Box:
    """The smallest square around a picture of this width and height."""
    return _square(size, max(size))


def central_square(size: tuple[int, int]) -> Box:
    """The largest square in the middle of a picture of this width and height."""
    return _square(size, min(size))


def _square(size: tuple[int, int], side: int) -> Box:
    left, top = ((length - side) / 2 / length for length in size)
    return (left, top, 1 - left, 1 - top)


def square_grid(n_tokens: int, box: Box) -> ImageGrid:
    """As many rows as columns.

    Raises:
        ValueError: `n_tokens` is no square.
    """
    side = math.isqrt(n_tokens)
    if side * side != n_tokens:
        raise ValueError(f"{n_tokens} image tokens are no square of patches")
    return ImageGrid(side, side, box)
