"""Language-model loss of reference captions under interventions: what a method costs that makes captions no shorter.

A method that only says less lowers CHAIR and leaves recall behind; one that harms the model raises this loss.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import Intervention
from llava_hh.metrics.statistics import RESAMPLES, image_weights
from llava_hh.models.lvlm import Batch, Lvlm


def reference_tokens(lvlm: Lvlm, captions: Sequence[str], max_new_tokens: int) -> list[list[int]]:
    """Token ids of captions as answers, at most `max_new_tokens` each, without the end token.

    The end token is left out because where COCO's one-sentence captions end says nothing of longer answers.

    Raises:
        ValueError: a caption without a token.
    """
    found = [lvlm.tokenizer(text.strip(), add_special_tokens=False).input_ids[:max_new_tokens] for text in captions]
    for text, ids in zip(captions, found, strict=True):
        if not ids:
            raise ValueError(f"reference caption {text!r} has no tokens")
    return found


@torch.no_grad()
def answer_losses(
    lvlm: Lvlm, batch: Batch, responses: Sequence[Sequence[int]], interventions: Sequence[Intervention] = ()
) -> list[float]:
    """Minus the log-probability of each row's answer in nats, summed over its tokens, by one uncached pass.

    Args:
        batch: encoded with `responses`, left-padded.
        interventions: what the answers are scored under, as if they were decoded step by step.
    """
    edits = intervene(lvlm.model, batch.image_mask, interventions, batch.response_start)
    with edits if interventions else nullcontext():
        shown = max(map(len, responses)) + 1  # the position before an answer predicts its first token
        logits = lvlm.model(**batch.inputs, use_cache=False, logits_to_keep=shown).logits
    ids = batch.inputs["input_ids"]
    return [
        cross_entropy(own[-len(answer) - 1 : -1].float(), row[-len(answer) :].to(own.device), reduction="sum").item()
        for own, row, answer in zip(logits, ids, responses, strict=True)
    ]


def summarise_losses(rows: Mapping[str, Sequence[Mapping]], reference: str, seed: int = 0) -> dict[str, dict]:
    """Mean loss per token of each method, and its difference from the reference's, with 95% intervals over images.

    Args:
        rows: by method, one per caption: `image_id`, `caption` (its number), `nats` (a sum) and `n_tokens`.
    Returns: `loss` (nats per token: sum over all captions by their tokens), `perplexity` (its exponential), their
        paired bootstrap intervals, counts; and, but for the reference, `difference` with its interval.
    Raises:
        ValueError: no rows, or methods that saw other captions or other tokens.
    """
    scored = {name: [(row["image_id"], row["caption"], row["n_tokens"]) for row in own] for name, own in rows.items()}
    if not scored[reference]:
        raise ValueError("no reference captions to measure a loss on")
    for name, own in scored.items():
        if own != scored[reference]:
            raise ValueError(f"{name} was measured on other captions or tokens than {reference}; expected the same")
    images, place = np.unique([image_id for image_id, *_ in scored[reference]], return_inverse=True)
    tokens = np.bincount(place, weights=[n for *_, n in scored[reference]])
    drawn = list(image_weights(len(images), RESAMPLES, seed))
    means, spread = {}, {}
    for name, own in rows.items():
        nats = np.bincount(place, weights=[row["nats"] for row in own])
        means[name] = nats.sum() / tokens.sum()
        spread[name] = np.concatenate([weights @ nats / (weights @ tokens) for weights in drawn])
    result = {}
    for name in rows:
        interval = np.percentile(spread[name], (2.5, 97.5))
        result[name] = {
            "loss": float(means[name]),
            "perplexity": float(np.exp(means[name])),
            "interval": {"loss": interval.tolist(), "perplexity": np.exp(interval).tolist()},
            "n_images": len(images),
            "n_captions": len(place),
            "n_tokens": int(tokens.sum()),
        }
        if name != reference:
            result[name]["difference"] = float(means[name] - means[reference])
            ends = np.percentile(spread[name] - spread[reference], (2.5, 97.5))
            result[name]["interval"]["difference"] = ends.tolist()
    return result
