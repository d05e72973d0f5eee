"""Where HALC looks for a word: the box to start from, the windows around it, and what their logits propose."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

Box = tuple[float, float, float, float]  # left, top, right, bottom, as fractions of the image
NOT_DETECTED: Box = (0.2, 0.2, 0.8, 0.8)  # where the detector finds nothing
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
    left, top = int(box[0] * image.width), int(box[1] * image.height)
    right, bottom = round(box[2] * image.width), round(box[3] * image.height)
    left, top = min(left, image.width - 1), min(top, image.height - 1)
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def contrast_windows(logits: Tensor, n_candidates: int, weight: float) -> list[int]:
    """The tokens that the windows propose: two of each of the pairs of windows that differ most.

    A pair's difference is 1/2 KL(M || p) + 1/2 KL(M || q) with M the mean of both. Each window of the pair proposes the
    token that is best by its logits less `weight` times the other's, the larger window first.

    Args:
        logits: (window, vocabulary), -inf for what may not be said.
    """
    log_probs = logits.double().log_softmax(-1)
    pairs = [(small, large) for small in range(len(logits)) for large in range(small + 1, len(logits))]
    distances = [_divergence(log_probs[small], log_probs[large]) for small, large in pairs]
    order = sorted(range(len(pairs)), key=lambda place: -distances[place])[: n_candidates // 2]
    found = []
    for small, large in (pairs[place] for place in order):
        for own, other in ((large, small), (small, large)):
            scores = logits[own] - weight * logits[other]
            found.append(int(scores.masked_fill(logits[own].isinf(), -torch.inf).argmax()))
    return found


def _divergence(first: Tensor, second: Tensor) -> float:
    """From log-probabilities (vocabulary,), nats."""
    mean = (first.exp() + second.exp()) / 2
    log_mean = mean.log()
    terms = mean * (2 * log_mean - first - second) / 2
    return float(terms.nan_to_num(0.0, 0.0, 0.0).sum())  # suppressed in both: 0 log 0


def smallest(boxes: Sequence[Box]) -> Box:
    return min(boxes, key=area)
