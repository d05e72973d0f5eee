"""AGLA's maps and masks a second time: loops over eager attention, an explicit blur, sorted lists, single pixels."""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.ndimage import zoom

from llava_hh.attention.modules import switch_attention
from llava_hh.baselines.halc.scorer import ImageTextMatcher
from llava_hh.files.module_hooks import hooked
from llava_hh.models.image_grid import Box
from llava_hh.models.lvlm import Lvlm


def smooth_by_hand(values: ArrayLike, box: Box) -> tuple[NDArray, NDArray]:
    """The box's map with its edge repeated, in cells of 1/384 of the picture; blurred by an explicit kernel."""
    values, cells, starts = np.asarray(values, dtype=np.float64), [], []
    for length, (first, last) in zip(values.shape, ((box[1], box[3]), (box[0], box[2])), strict=True):
        cells.append(round((last - first) * 384 / length))
        starts.append(round(first * 384))
        whole = math.isclose(cells[-1] * length, (last - first) * 384), math.isclose(starts[-1], first * 384)
        assert all(whole), "cells of the map must be whole cells of the picture"
    border = [max(math.ceil(start / cell), 0) for start, cell in zip(starts, cells, strict=True)]
    padded = np.pad(values, [(each, each) for each in border], mode="edge")
    enlarged = zoom(padded, cells, order=3, mode="nearest", grid_mode=True)
    for axis, (start, cell, added) in enumerate(zip(starts, cells, border, strict=True)):
        enlarged = enlarged.take(range(added * cell - start, added * cell - start + 384), axis)
    spread = 0.02 * 384
    kernel = np.array([math.exp(-(step**2) / 2 / spread**2) for step in range(-31, 32)])
    for axis in range(2):
        wide = np.pad(enlarged, [(31 * (axis == 0),) * 2, (31 * (axis == 1),) * 2], mode="symmetric")
        enlarged = np.apply_along_axis(np.convolve, axis, wide, kernel / kernel.sum(), mode="valid")
    covered = [
        [box[1] <= (y + 0.5) / 384 <= box[3] and box[0] <= (x + 0.5) / 384 <= box[2] for x in range(384)]
        for y in range(384)
    ]
    return enlarged.astype(np.float32), np.array(covered)


def masked_by_hand(image: Image.Image, values: ArrayLike, share: float, box: Box) -> Image.Image:
    """Every pixel asks the cell of the map that it falls into."""
    smooth, covered = smooth_by_hand(values, box)
    ordered = sorted((smooth[cell] for cell in zip(*np.nonzero(covered), strict=True)), reverse=True)
    least = ordered[min(int(len(ordered) * share), len(ordered) - 1)]
    made = image.copy()
    for x in range(image.width):
        for y in range(image.height):
            cell = math.floor((y + 0.5) * 384 / image.height), math.floor((x + 0.5) * 384 / image.width)
            if covered[cell] and smooth[cell] < least:
                made.putpixel((x, y), (0, 0, 0))
    return made


@torch.no_grad()
def attention_by_hand(lvlm: Lvlm, image: Image.Image, question: str) -> list[float]:
    """What the prompt's last row attends to on each image token: a mean by loops over eager maps."""
    batch = lvlm.encode([image], [question])
    with switch_attention(lvlm.model, "eager"):
        maps = lvlm.model(**batch.inputs, output_attentions=True, use_cache=False).attentions
    keys = batch.image_mask[0].nonzero().flatten().tolist()
    of_heads = [[head[-1] for head in layer[0]] for layer in maps]
    every = [row for layer in of_heads for row in layer]
    return [sum(row[key].item() for row in every) / len(every) for key in keys]


def gradcam_by_hand(matcher: ImageTextMatcher, image: Image.Image, text: str, block: int) -> tuple[list[float], float]:
    """By loops over what a whole pass with all its gradients gives; and the share to keep."""
    inputs = matcher.processor(images=image, text=text, return_tensors="pt")
    with torch.no_grad():
        cosine = matcher.model(**inputs, use_itm_head=False).itm_score.item()
    inputs["input_ids"][0, 0] = matcher.model.config.text_config.bos_token_id + 1
    layer, kept = matcher.model.text_encoder.encoder.layer[block], []

    def keep(_, __, output):
        output[1].retain_grad()
        kept.append(output[1])

    matcher.model.requires_grad_(True)
    with torch.enable_grad(), hooked([(layer.crossattention.self, keep)]):
        matcher.model(**inputs).itm_score[0, 1].backward()
    matcher.model.requires_grad_(False)
    weights, gradients = kept[0][0], kept[0].grad[0]
    n_heads, n_tokens, n_patches = weights.shape
    found = []
    for patch in range(1, n_patches):
        terms = [
            weights[head, token, patch].item() * max(gradients[head, token, patch].item(), 0)
            for head in range(n_heads)
            for token in range(1, n_tokens - 1)
        ]
        found.append(sum(terms) / len(terms))
    return found, min(1 - cosine / 2, 1 - 1e-5)
