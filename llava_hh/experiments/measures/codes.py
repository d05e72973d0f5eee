"""Attention as bytes: what word maps keep and the page draws."""

import numpy as np

LARGEST_CODE = 255
MOST_READ = 5  # tokens that are listed for a head at a word


def encode_weights(weights: np.ndarray, n_image: int) -> tuple[np.ndarray, np.ndarray]:
    """Attention as bytes: (head, key) -> codes of the same shape, uint8, and what 255 stands for, (head, 2) float32.

    Args:
        n_image: how many of the keys, from the front, are the image's; the image and the text have a scale each.
    """
    sides = np.split(weights, [n_image], axis=1)
    scales = np.stack([side.max(1, initial=0) for side in sides], axis=1).astype(np.float32)  # head side
    largest = np.where(scales > 0, scales, 1)[..., None]
    codes = [np.rint(side / largest[:, column] * LARGEST_CODE) for column, side in enumerate(sides)]
    return np.concatenate(codes, axis=1).astype(np.uint8), scales
