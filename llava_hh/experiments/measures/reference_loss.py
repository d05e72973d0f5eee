"""Language-model loss of reference captions under interventions.

A method that only says less lowers both CHAIR and recall. One that damages the model raises this loss.
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
    tokens = [lvlm.tokenizer(text.strip(), add_special_tokens=False).input_ids[:max_new_tokens] for text in captions]
    if [] in tokens:
        raise ValueError(f"reference caption {captions[tokens.index([])]!r} has no tokens")
    return tokens


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
    losses = []
    for predicted, row, n_tokens in zip(logits, ids, map(len, responses), strict=True):
        said = row[-n_tokens:].to(predicted.device)
        losses.append(cross_entropy(predicted[-n_tokens - 1 : -1].float(), said, reduction="sum").item())
    return losses


def summarise_losses(rows: Mapping[str, Sequence[Mapping]], reference: str, seed: int = 0) -> dict[str, dict]:
    """Mean loss per token of each method, and its difference from the reference's, with 95% intervals over images.

    Args:
        rows: by method, one per caption: `image_id`, `caption` (its number), `nats` (a sum) and `n_tokens`.
    Returns: `loss` (nats per token: sum over all captions by their tokens), `perplexity` (its exponential), their
        paired bootstrap intervals, counts; and, but for the reference, `difference` with its interval.
    Raises:
        ValueError: no rows, or methods that saw other captions or other tokens.
    """
    keys = ("image_id", "caption", "n_tokens")
    scored = {name: [tuple(row[key] for key in keys) for row in of_method] for name, of_method in rows.items()}
    if not scored[reference]:
        raise ValueError("no reference captions to measure a loss on")
    for name, captions in scored.items():
        if captions != scored[reference]:
            raise ValueError(f"{name} was measured on other captions or tokens than {reference}; expected the same")
    images, index = np.unique([image_id for image_id, *_ in scored[reference]], return_inverse=True)
    tokens = np.bincount(index, weights=[n for *_, n in scored[reference]])
    drawn = list(image_weights(len(images), RESAMPLES, seed))
    means, spread = {}, {}
    for name, of_method in rows.items():
        nats = np.bincount(index, weights=[row["nats"] for row in of_method])
        means[name] = nats.sum() / tokens.sum()
        spread[name] = np.concatenate([weights @ nats / (weights @ tokens) for weights in drawn])
    counts = {"n_images": len(images), "n_captions": len(index), "n_tokens": int(tokens.sum())}
    result = {}
    for name, mean in means.items():
        ends = np.percentile(spread[name], (2.5, 97.5))
        intervals = {"loss": ends.tolist(), "perplexity": np.exp(ends).tolist()}
        result[name] = {"loss": float(mean), "perplexity": float(np.exp(mean)), "interval": intervals, **counts}
        if name != reference:
            result[name]["difference"] = float(mean - means[reference])
            intervals["difference"] = np.percentile(spread[name] - spread[reference], (2.5, 97.5)).tolist()
    return result
