"""A batch of four questions, three of them with a drawn image."""

import numpy as np
from PIL import Image

QUESTIONS = ["describe the dog", "describe", "a cat and the dog", "describe a"]


def draw_image(seed: int, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


IMAGES = [draw_image(0, 20, 12), draw_image(1, 8, 24), None, draw_image(2, 16, 16)]
# where the cross-attention layers of mllama would read the images of a row without any
SHOWN = [*IMAGES[:2], draw_image(3, 9, 10), IMAGES[3]]
