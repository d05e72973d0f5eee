"""Attention bias (figure 3): where heads look when an object word is about to be said."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from llava_hh.attention.hooks import record
from llava_hh.attention.spans import after_last_image
from llava_hh.files.memory import in_parts
from llava_hh.heads import Head, by_layer
from llava_hh.metrics.statistics import RESAMPLES, mean_with_interval
from llava_hh.models.lvlm import Batch, Lvlm

# What a row of attention is split into; the four sum to 1.
PARTS = ("image_mass", "question_mass", "generated_mass", "rest_mass")
AFTER_IMAGE = "after_image_mass"  # question_mass + generated_mass, the paper's text
NAMES = (*PARTS, AFTER_IMAGE)


@torch.no_grad()
def attention_rows(lvlm: Lvlm, batch: Batch, positions: Sequence[Sequence[int]], heads: Sequence[Head]) -> list[Tensor]:
    """Attention of heads at chosen positions; for each row of the batch (position, head, key), fp32 on the CPU.

    Only the maps of `heads` are materialised, and of fewer heads at once where memory is short.

    Args:
        positions: those of each row.
    """

    def rows_of(part: Sequence[Head]) -> list[Tensor]:
        with record(lvlm.model, batch.image_mask, maps=part) as trace:
            lvlm.model.base_model(**batch.inputs, use_cache=False)
        layers = by_layer(part)
        maps = [(trace.maps[layer][0], layers[layer].index(head)) for layer, head in part]  # (row head query key), head
        return [
            torch.stack([of_layer[row, head, list(chosen)].cpu() for of_layer, head in maps], dim=1)
            for row, chosen in enumerate(positions)
        ]

    return [torch.cat(of_row, dim=1) for of_row in zip(*in_parts(rows_of, heads)[0], strict=True)]


def attention_parts(
    lvlm: Lvlm, batch: Batch, positions: Sequence[Sequence[int]], heads: Sequence[Head]
) -> list[Tensor]:
    """Attention mass of heads at chosen positions by PARTS; per row, (position, head, part) fp32 fractions, CPU.

    PARTS are the image's tokens; the prompt after them (question, role tag); the answer so far, with the query's own
    token; and the rest, which stands before the image (system prompt, BOS).

    Args:
        batch: teacher-forced samples, left-padded if several.
        positions: those of each row.
    Source: paper, figure 3; its text mass is question_mass + generated_mass.
    Differs: the released script finds words by their text, and the image at 576 fixed positions.
    """
    rows = attention_rows(lvlm, batch, positions, heads)
    masks = map(part_masks, batch.image_mask.cpu(), batch.response_start)
    return [
        torch.stack([maps[:, head] @ of_row.T for head in range(maps.shape[1])], dim=1)
        for maps, of_row in zip(rows, masks, strict=True)
    ]


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
    wrong = np.array([target["hallucinated"] for target in targets], dtype=bool)
    summary: dict = {}
    for kind, chosen in (("all", wrong | True), ("hallucinated", wrong), ("true", ~wrong)):
        summary[kind] = _means(values[chosen].mean(1), image_ids[chosen]) if chosen.any() else None
    of_heads = zip(heads, values.mean(0).tolist(), strict=True)
    summary["heads"] = [{"head": list(head), **dict(zip(NAMES, means, strict=True))} for head, means in of_heads]
    return summary


def _means(values: np.ndarray, image_ids: np.ndarray) -> dict:
    """Mean over words of (word, part), and intervals over images, whose words are drawn together."""
    means, ends = mean_with_interval(values, RESAMPLES, image_ids=image_ids)
    entries = zip(NAMES, means.tolist(), ends.T.tolist(), strict=True)
    return {**{name: {"mean": mean, "interval": {"mean": end}} for name, mean, end in entries}, "n_words": len(values)}
