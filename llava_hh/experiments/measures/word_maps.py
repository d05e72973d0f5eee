"""Where heads look when a word is about to be said: their attention over the image and the text, kept small.

A word's codes are one byte a key. With n image tokens, p prompt tokens after the image and i answer tokens before the
word, each head has n + p + i of them, image first; a code c stands for an attention of c / 255 times the head's largest
on the image or on the text, which are kept apart.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from llava_hh.attention.spans import after_last_image
from llava_hh.attribution.targets import Target, token_ends
from llava_hh.experiments.measures.attention_bias import attention_rows, part_masks
from llava_hh.heads import Head
from llava_hh.models.lvlm import Batch, Lvlm

LARGEST_CODE = 255


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


def token_texts(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; a token that ends inside a character adds nothing, the one that ends it all."""
    text, ends = token_ends(tokenizer, token_ids, skip_special_tokens=False)
    return [text[start:end] for start, end in pairwise([0, *ends])]


def measure_caption(
    lvlm: Lvlm, entry: dict, targets: Sequence[Target], positions: Sequence[int], batch: Batch, heads: Sequence[Head]
) -> tuple[dict, dict[str, np.ndarray]]:
    """A row of word_maps.json and the arrays of one caption: `codes` (byte,), `scales` (word, head, 2), `parts`.

    Args:
        targets, positions, batch: what `TeacherForced.prepare` makes of `entry`.
    """
    [maps] = attention_rows(lvlm, batch, [positions], heads)
    image, start = batch.image_mask[0].cpu(), batch.response_start[0]
    text = after_last_image(image[None], len(image))[0]
    n_image, n_prompt = int(image.sum()), int(text[:start].sum())
    encoded = []
    for weights, position in zip(maps, positions, strict=True):  # head key
        seen = torch.cat([weights[:, image], weights[:, : position + 1][:, text[: position + 1]]], dim=1)
        encoded.append(encode_weights(seen.numpy(), n_image))
    grid = lvlm.image_grid(batch)
    row = {
        "image_id": entry["image_id"],
        "tokens": token_texts(lvlm.tokenizer, batch.inputs["input_ids"][0].cpu()[text].tolist()),
        "n_prompt": n_prompt,
        "n_image": n_image,
        "grid": None if grid is None else grid._asdict(),
        "words": [target.row() for target in targets],
    }
    arrays = {
        "codes": np.concatenate([codes.ravel() for codes, _ in encoded]),
        "scales": np.stack([scales for _, scales in encoded]),
        "parts": (maps @ part_masks(image, start).T).numpy(),
    }
    return row, arrays
