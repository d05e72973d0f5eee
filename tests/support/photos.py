"""Three smooth images of other shapes, and whether two models answer them alike."""

import numpy as np
import torch
from PIL import Image

from llava_hh.models.lvlm import DESCRIBE, Lvlm


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


PHOTOS = [photo(64, 48), photo(30, 70, seed=1), photo(50, 50, seed=2)]


def assert_same_model(one: Lvlm, other: Lvlm) -> None:
    batch, expected = (each.encode(PHOTOS, [DESCRIBE] * 3) for each in (one, other))
    assert torch.equal(batch.inputs["input_ids"], expected.inputs["input_ids"])
    with torch.no_grad():
        assert torch.equal(one.model(**batch.inputs).logits, other.model(**expected.inputs).logits)
