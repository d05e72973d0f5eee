"""Where heads look when a word is about to be said: their attention over the image and the text, kept small.

A word's codes are one byte a key. With n image tokens, p prompt tokens after the image and i answer tokens before the
word, each head has n + p + i of them, image first; a code c stands for an attention of c / 255 times the head's largest
on the image or on the text, which are kept apart.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llava_hh.attention.hooks import record
from llava_hh.attention.spans import after_last_image
from llava_hh.attribution.targets import Target, token_ends
from llava_hh.experiments.measures.attention_bias import part_masks
from llava_hh.files.memory import in_parts
from llava_hh.heads import Head, by_layer
from llava_hh.models.lvlm import Batch, Lvlm

LARGEST_CODE = 255


@torch.no_grad()
def record_words(
    lvlm: Lvlm, batch: Batch, positions: Sequence[int], heads: Sequence[Head]
) -> tuple[Tensor, list[Tensor]]:
    """Attention of `heads` at the positions that predict words, of one teacher-forced sample with an image.

    Returns:
        parts (position, head, part) of `attention_bias.PARTS`; and for each position (head, key), the keys being the
        image's tokens, then what stands after the image up to the position itself. fp32 on the CPU.
    """

    def rows_of(heads: Sequence[Head]) -> Tensor:
        with record(lvlm.model, batch.image_mask, maps=heads) as trace:
            lvlm.model.base_model(**batch.inputs, use_cache=False)
        layers = by_layer(heads)
        return torch.stack(
            [trace.maps[layer][0][0, layers[layer].index(head), list(positions)].cpu() for layer, head in heads], dim=1
        )

    maps = torch.cat(in_parts(rows_of, heads)[0], dim=1)  # position head key
    image = batch.image_mask[0].cpu()
    after_image = after_last_image(image[None], len(image))[0]
    parts = maps @ part_masks(image, batch.response_start[0]).T
    return parts, [
        torch.cat([row[:, image], row[:, : position + 1][:, after_image[: position + 1]]], dim=1)
        for row, position in zip(maps, positions, strict=True)
    ]


def encode_weights(weights: np.ndarray, n_image: int) -> tuple[np.ndarray, np.ndarray]:
    """Attention as bytes: (head, key) -> codes of the same shape, uint8, and what 255 stands for, (head, 2) float32.

    Args:
        n_image: how many of the keys, from the front, are the image's; the image and the text have a scale each.
    """
    codes, scales = np.empty(weights.shape, np.uint8), np.zeros((len(weights), 2), np.float32)
    for place, keys in enumerate((slice(None, n_image), slice(n_image, None))):
        scales[:, place] = weights[:, keys].max(1, initial=0)
        largest = np.where(scales[:, place] > 0, scales[:, place], 1)[:, None]
        codes[:, keys] = np.rint(weights[:, keys] / largest * LARGEST_CODE)
    return codes, scales


def token_texts(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; a token that ends inside a character adds nothing, the one that ends it all."""
    text, ends = token_ends(tokenizer, token_ids, skip_special_tokens=False)
    return [text[start:end] for start, end in pairwise([0, *ends])]


def measure_caption(
    lvlm: Lvlm, entry: dict, targets: Sequence[Target], positions: Sequence[int], batch: Batch, heads: Sequence[Head]
) -> tuple[dict, dict[str, np.ndarray]]:
    """A row of word_maps.json and the arrays of one caption: `codes` (byte,), `scales` (word, head, 2), `parts`.

    Args:
        targets, positions, batch: as `TeacherForced.prepare` makes them of `entry`.
    """
    parts, weights = record_words(lvlm, batch, positions, heads)
    image = batch.image_mask[0].cpu()
    text = after_last_image(image[None], len(image))[0]
    n_image = int(image.sum())
    encoded = [encode_weights(word.numpy(), n_image) for word in weights]
    grid = lvlm.image_grid(batch)
    row = {
        "image_id": entry["image_id"],
        "tokens": token_texts(lvlm.tokenizer, batch.inputs["input_ids"][0].cpu()[text].tolist()),
        "n_prompt": int(text[: batch.response_start[0]].sum()),
        "n_image": n_image,
        "grid": None if grid is None else grid._asdict(),
        "words": [target.row() for target in targets],
    }
    arrays = {
        "codes": np.concatenate([codes.ravel() for codes, _ in encoded]),
        "scales": np.stack([scales for _, scales in encoded]),
        "parts": parts.numpy(),
    }
    return row, arrays
