"""Labels of points that cover neither each other nor a point, each beside its own or at the end of a thin line."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from llava_hh.figures.style import LEADER, TEXT

ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
DISTANCES = (2, 6, 11, 17, 24, 32, 41, 52, 66, 82)  # points, from the rim of the marker to the label
NO_LINE = 4  # points up to which a label needs no line
ROUNDS = 5  # in each of which every label is placed anew, while the others stand
# what a position of a label costs beside its distance in points
OVER_LABEL, OVER_MARKER, OUTSIDE, CROSSED, NEARER_TO_ANOTHER = 300.0, 120.0, 900.0, 60.0, 100.0
ALONG = np.linspace(0, 1, 20)[:, None, None]  # of a line, where it is looked at


@dataclass
class Positions:
    """The possible positions of one label, in pixels, the nearest first.

    boxes: (position, 4) of left, bottom, right, top; ends: (position, 2) of the line; costs: (position,) without a
    look at other labels.
    """

    centre: np.ndarray
    boxes: np.ndarray
    ends: np.ndarray
    distances: np.ndarray
    costs: np.ndarray


def add_labels(
    axis: Axes, points: np.ndarray, names: Sequence[str], radii: Sequence[float], colours: Sequence[str]
) -> None:
    """Write a name beside each point, after all else is drawn and the limits of the axes stand.

    Args:
        points: (point, 2), in data coordinates; radii: of the markers, in points (1/72 inch); colours: of the names.
    """
    figure = axis.get_figure(root=True)
    axis.set(xlim=axis.get_xlim(), ylim=axis.get_ylim())  # lines of labels do not change them
    figure.draw_without_rendering()  # lays out, so that the axes are measured as they will be
    pixels = figure.dpi / 72
    halo = [withStroke(linewidth=1.5, foreground="white", alpha=0.85)]
    style = {"fontsize": TEXT, "ha": "center", "va": "center", "path_effects": halo, "zorder": 4, "in_layout": False}
    given = zip(points, names, colours, strict=True)
    texts = [axis.text(*point, name, color=colour, **style) for point, name, colour in given]
    sizes = [text.get_window_extent().padded(0.3 * pixels).size for text in texts]
    centres, reach = axis.transData.transform(points), np.asarray(radii) * pixels
    markers = np.hstack([centres - reach[:, None], centres + reach[:, None]])
    inside = axis.bbox.padded(-pixels).extents
    each = [_positions(own, centres, reach, size, markers, inside, pixels) for own, size in enumerate(sizes)]
    to_data = axis.transData.inverted()
    for text, label, index in zip(texts, each, _choose(each), strict=True):
        box = label.boxes[index]
        text.set_position(to_data.transform((box[:2] + box[2:]) / 2))
        if label.distances[index] > NO_LINE:
            line = to_data.transform([label.centre, label.ends[index]])
            axis.plot(*line.T, color=LEADER, lw=0.6, zorder=2)


def _positions(
    own: int,
    centres: np.ndarray,
    reach: np.ndarray,
    size: np.ndarray,
    markers: np.ndarray,
    inside: np.ndarray,
    pixels: float,
) -> Positions:
    """All positions of the label of point `own`; `size` is that of its text, `reach` the markers' radii."""
    angles, distances = (grid.ravel() for grid in np.meshgrid(ANGLES, DISTANCES))
    towards = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outwards = np.clip(towards * np.sqrt(2), -1, 1) * size / 2  # at a diagonal, a corner is nearest
    middles = centres[own] + towards * (reach[own] + distances * pixels)[:, None] + outwards
    boxes = np.hstack([middles - size / 2, middles + size / 2])
    ends = np.clip(centres[own], boxes[:, :2], boxes[:, 2:])
    # (position, point)
    others = np.arange(len(centres)) != own
    covered = _overlap(boxes[:, None], markers[None, others])
    crossed = _meets(centres[own], ends[:, None], markers[None, others])
    nearest = np.clip(centres[None], boxes[:, None, :2], boxes[:, None, 2:])
    gaps = np.linalg.norm(nearest - centres[None], axis=-1) - reach
    mistaken = (gaps[:, others] < gaps[:, [own]] + pixels).any(1)
    leaves = (boxes[:, :2] < inside[:2]).any(1) | (boxes[:, 2:] > inside[2:]).any(1)
    costs = distances + OVER_MARKER * covered.sum(1) + CROSSED * crossed.sum(1)
    return Positions(centres[own], boxes, ends, distances, costs + NEARER_TO_ANOTHER * mistaken + OUTSIDE * leaves)


def _choose(each: list[Positions]) -> list[int]:
    """The index of the cheapest position of each label, in turn and again while the others stand."""
    chosen: list[int | None] = [None] * len(each)
    for _ in range(ROUNDS):
        for own, label in enumerate(each):
            costs = label.costs.copy()
            for other, index in zip(each, chosen, strict=True):
                if index is None or other is label:
                    continue
                box, end = other.boxes[index], other.ends[index]
                costs += OVER_LABEL * _overlap(label.boxes, box)
                lines = _cross(label.centre, label.ends, other.centre, end)
                lines |= _meets(other.centre, end, label.boxes) | _meets(label.centre, label.ends, box)
                costs += CROSSED * lines
            chosen[own] = int(costs.argmin())
    return [index for index in chosen if index is not None]


def _overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether boxes overlap; both end in (left, bottom, right, top)."""
    return ((first[..., :2] < second[..., 2:]) & (second[..., :2] < first[..., 2:])).all(-1)


def _meets(start: np.ndarray, ends: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether the lines from `start` to `ends` pass through boxes."""
    looked_at = start + ALONG.reshape(-1, *[1] * max(ends.ndim, boxes.ndim)) * (ends - start)
    return ((looked_at > boxes[..., :2]) & (looked_at < boxes[..., 2:])).all(-1).any(0)


def _cross(start: np.ndarray, ends: np.ndarray, other: np.ndarray, its_end: np.ndarray) -> np.ndarray:
    """Whether the lines from `start` to each of `ends` cross the line from `other` to `its_end`."""

    def side(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> np.ndarray:
        (a, b), (c, d) = np.moveaxis(second - first, -1, 0), np.moveaxis(third - first, -1, 0)
        return a * d - b * c

    apart = side(start, ends, other) * side(start, ends, its_end) < 0
    return apart & (side(other, its_end, start) * side(other, its_end, ends) < 0)
