"""Attention bias (figure 3): where heads look when an object word is about to be said."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from llava_hh.attention.hooks import record
from llava_hh.attention.spans import after_last_image
from llava_hh.files.memory import in_parts
from llava_hh.heads import Head, by_layer
from llava_hh.metrics.statistics import mean_with_interval
from llava_hh.models.lvlm import Batch, Lvlm

# What a row of attention is split into; the four sum to 1.
PARTS = ("image_mass", "question_mass", "generated_mass", "rest_mass")
AFTER_IMAGE = "after_image_mass"  # question_mass + generated_mass, the paper's text
RESAMPLES = 2000


@torch.no_grad()
def attention_parts(
    lvlm: Lvlm, batch: Batch, positions: Sequence[Sequence[int]], heads: Sequence[Head]
) -> list[Tensor]:
    """Attention mass of each head at chosen positions by PARTS; per row, (position, head, part) fp32 fractions, CPU.

    The image's tokens; the prompt after them (question, role tag); the answer so far, the query's own token included;
    and the rest, which stands before the image (system prompt, BOS). Maps of `heads` alone are materialised.

    Args:
        batch: teacher-forced samples, left-padded if several.
        positions: of each row.
    Source: paper, figure 3; its text mass is question_mass + generated_mass.
    Differs: the released script adds up keys before the query only, without its own token; here the parts sum to 1.
    """
    parts, _ = in_parts(lambda own: _parts_of_heads(lvlm, batch, positions, own), heads)
    return [torch.cat(own, dim=1) for own in zip(*parts, strict=True)]


def _parts_of_heads(
    lvlm: Lvlm, batch: Batch, positions: Sequence[Sequence[int]], heads: Sequence[Head]
) -> list[Tensor]:
    with record(lvlm.model, batch.image_mask, maps=heads) as trace:
        lvlm.model.base_model(**batch.inputs, use_cache=False)
    layers = by_layer(heads)
    parts = []
    for row, (image, start, own) in enumerate(
        zip(batch.image_mask.cpu(), batch.response_start, positions, strict=True)
    ):
        masks = part_masks(image, start).T
        maps = [trace.maps[layer][0][row, layers[layer].index(head), list(own)] for layer, head in heads]
        parts.append(torch.stack([rows.cpu() @ masks for rows in maps], dim=1))
    return parts


def part_masks(image: Tensor, start: int) -> Tensor:
    """Which keys of a row each of PARTS has, (part, key) fp32 of 0 and 1.

    Args:
        image: (key,) bool; start: the first key of the answer.
    """
    generated = torch.arange(len(image)) >= start
    question = after_last_image(image[None], len(image))[0] & ~generated
    return torch.stack([image, question, generated, ~(image | question | generated)]).float()


def summarise_group(
    parts: np.ndarray, targets: Sequence[Mapping], image_ids: np.ndarray, heads: Sequence[Head]
) -> dict:
    """Means of a group of heads with 95% bootstrap intervals over images, for all, hallucinated and true words.

    Args:
        parts: (word, head, part) of PARTS.
    Returns: {"all" | "hallucinated" | "true": {part: {"mean", "interval"}, "n_words"}, "heads": [{"head", part: mean}]}
        with AFTER_IMAGE among the parts. A kind without words is None.
    """
    values = np.concatenate([parts, parts[..., 1:3].sum(-1, keepdims=True)], axis=-1).astype(np.float64)
    names = (*PARTS, AFTER_IMAGE)
    wrong = np.array([target["hallucinated"] for target in targets], dtype=bool)
    summary: dict = {}
    for kind, chosen in (("all", wrong | True), ("hallucinated", wrong), ("true", ~wrong)):
        summary[kind] = _means(values[chosen].mean(1), image_ids[chosen], names) if chosen.any() else None
    summary["heads"] = [
        {"head": list(head), **dict(zip(names, means.tolist(), strict=True))}
        for head, means in zip(heads, values.mean(0), strict=True)
    ]
    return summary


def _means(values: np.ndarray, image_ids: np.ndarray, names: Sequence[str]) -> dict:
    """Mean over words of (word, part), and intervals over images, whose words are drawn together."""
    means, ends = mean_with_interval(values, RESAMPLES, image_ids=image_ids)
    entries = zip(names, means.tolist(), ends.T.tolist(), strict=True)
    return {**{name: {"mean": mean, "interval": {"mean": own}} for name, mean, own in entries}, "n_words": len(values)}
