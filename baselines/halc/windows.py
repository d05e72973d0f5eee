"""The windows that HALC checks a word in: the box to start from, the windows around it, and what they propose."""

from collections.abc import Sequence
from itertools import combinations

import torch
from PIL import Image
from torch import Tensor

Box = tuple[float, float, float, float]  # left, top, right, bottom, as fractions of the image
NOT_DETECTED: Box = (0.2, 0.2, 0.8, 0.8)  # used where the detector sees nothing
MOST_SHRUNK = 0.8


def area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def expand(box: Box, ratio: float) -> Box:
    """The box of (1 + ratio) times the width and height about the same centre, cut off at the image's edges."""
    across, down = ((box[end + 2] - box[end]) * ratio / 2 for end in (0, 1))
    left, top, right, bottom = box
    return max(0.0, left - across), max(0.0, top - down), min(1.0, right + across), min(1.0, bottom + down)


def windows_around(box: Box, ratio: float) -> list[Box]:
    """Four boxes, each in the next: smaller than the box, itself, larger, and larger again."""
    larger = expand(box, ratio)
    return [expand(box, -min(ratio, MOST_SHRUNK)), box, larger, expand(larger, ratio)]


def crop(image: Image.Image, box: Box) -> Image.Image:
    """The part of the image in the box, of at least one pixel."""
    left, top = min(int(box[0] * image.width), image.width - 1), min(int(box[1] * image.height), image.height - 1)
    right, bottom = round(box[2] * image.width), round(box[3] * image.height)
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def contrast_windows(logits: Tensor, n_candidates: int, weight: float) -> list[int]:
    """The tokens that the windows propose: two of each of the pairs of windows that differ most.

    A pair's difference is 1/2 KL(M || p) + 1/2 KL(M || q) with M the mean of both. Each window of the pair proposes the
    token that is best by its logits less `weight` times the other's, the larger window first.

    Args:
        logits: (window, vocabulary), -inf for what may not be said.
    """
    log_probs = logits.double().log_softmax(-1)
    pairs = sorted(combinations(range(len(logits)), 2), key=lambda pair: -_divergence(*log_probs[[*pair]]))
    proposed = []
    for small, large in pairs[: n_candidates // 2]:
        for window, other in ((large, small), (small, large)):
            scores = logits[window] - weight * logits[other]
            proposed.append(int(scores.masked_fill(logits[window].isinf(), -torch.inf).argmax()))
    return proposed


def _divergence(first: Tensor, second: Tensor) -> float:
    """From log-probabilities (vocabulary,), nats."""
    mean = (first.exp() + second.exp()) / 2
    terms = mean * (2 * mean.log() - first - second) / 2
    return float(terms.nan_to_num(0.0, 0.0, 0.0).sum())  # suppressed in both: 0 log 0


def smallest(boxes: Sequence[Box]) -> Box:
    return min(boxes, key=area)
