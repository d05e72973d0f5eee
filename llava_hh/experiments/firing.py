"""How often AD-HH would switch each head off, and control heads that fire as often as the chosen ones.

A control that fires less often than the chosen heads harms less, whatever the chosen heads do. So for each chosen head
another is drawn among those whose rate is nearest.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import AttentionCall, DeactivateText, Decisions
from llava_hh.attention.modules import heads_on_image_alone
from llava_hh.attention.spans import Spans
from llava_hh.attribution.captions import TeacherForced, read_captions, refuse_other_model
from llava_hh.experiments.per_caption import Measured, MeasureSettings, measured_captions
from llava_hh.files.files import write_json
from llava_hh.files.memory import in_parts
from llava_hh.heads import Head, check_heads
from llava_hh.models.lvlm import Batch, Lvlm
from llava_hh.runs.run import processes, provenance

NEAREST = 5  # heads that a control is drawn among


@dataclass(frozen=True)
class _Watch(DeactivateText):
    """Decides as `DeactivateText` does, and leaves the output as it is."""

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> Decisions:
        return super().edit(replace(call, output=call.output.clone()), heads, spans)


@torch.no_grad()
def fired_counts(lvlm: Lvlm, batch: Batch, n_answers: int, threshold: float, heads: Sequence[Head]) -> np.ndarray:
    """How often each of `heads` would fire on one teacher-forced caption, and out of how many decisions, (head, 2).

    Nothing is edited, so the rates of one head do not depend on which others are watched.

    Args:
        n_answers: how many positions decide, from the last of the prompt on: one for each token that was generated.
    """

    def counts(part: Sequence[Head]) -> np.ndarray:
        with intervene(lvlm.model, batch.image_mask, [_Watch(tuple(part), threshold)], batch.response_start) as trace:
            lvlm.model.base_model(**batch.inputs, use_cache=False)
        trace.finish(n_answers)
        fired = trace.fired
        return np.array([fired[head] for head in part], dtype=np.int64)

    return np.concatenate(in_parts(counts, heads)[0])


def firing_rates(
    lvlm: Lvlm, captions: Path, images: Path, threshold: float, out: Path, batch_size: int, limit: int | None = None
) -> np.ndarray:
    """Share of answer tokens at which each head's mass after the image reaches `threshold`, (layer, head).

    The model reads its own greedy captions once more, under the rule of `DeactivateText`, and no head is edited. Heads
    that attend to the image alone have NaN. Writes firing_rates.json into the folder `out`, where the run resumes; its
    blocks are shared over processes.

    Args:
        captions: captions_eval_results.json of the model's greedy captions; limit: the first so many of them.
        images: the folder of their images.
    Raises:
        ValueError: captions of another model, or without any token after an image.
    """
    refuse_other_model(captions, lvlm.path, "--choosing-captions")
    every, _ = read_captions(captions)
    if not every:
        raise ValueError(f"--choosing-captions {captions}: no captions")
    entries = every[:limit]
    teacher = TeacherForced.of(lvlm, images)
    without_text = set(heads_on_image_alone(lvlm.model))
    heads = [Head(*pair) for pair in np.ndindex(lvlm.n_layers, lvlm.n_heads) if pair not in without_text]
    settings = MeasureSettings(**teacher.fields(every, batch_size, limit), further={"threshold": threshold})

    def measure(entry: dict) -> Measured:
        n_answers = len(entry["token_ids"]) + (entry["finish_reason"] == "stop")  # the end token was decided on too
        counts = fired_counts(lvlm, teacher.batch(entry), n_answers, threshold, heads)
        return Measured([{"image_id": entry["image_id"], "n_tokens": n_answers}], {"counts": counts[None]})

    with measured_captions(out, settings, entries, "firing rates", teacher.image_of, measure) as measured:
        shared = ""
        if measured is not None:
            fired, decided = measured.arrays["counts"].sum(0).T
            if not decided.all():
                raise ValueError(f"--choosing-captions {captions}: no token of them comes after an image")
            rates = np.full((lvlm.n_layers, lvlm.n_heads), np.nan)
            rates[*np.transpose(heads)] = fired / decided
            listed = [[None if np.isnan(rate) else rate for rate in layer] for layer in rates.tolist()]
            content = {"threshold": threshold, "rates": listed, "n_tokens": int(decided[0]), "n_captions": len(entries)}
            write_json(out / "firing_rates.json", {**content, "settings": settings.record(), "run": provenance()})
            shared = json.dumps(listed)
    return np.array(json.loads(processes().exchange(shared)[0]), dtype=np.float64)


def matched_heads(rates: np.ndarray, heads: Sequence[Head], seed: int) -> list[Head]:
    """For each of `heads` another one, drawn among the NEAREST whose firing rates are nearest to its rate.

    None of `heads` is drawn, and none twice: a head is drawn among those that are left. Which of several equally near
    ones are among the nearest is drawn too. The same seed draws the same heads.

    Args:
        rates: (layer, head) fractions; NaN for heads that cannot fire, which are not drawn.
    Raises:
        ValueError: a head of `heads` that cannot fire or stands there twice, or too few others.
        IndexError: a head that the model does not have.
    """
    heads = [Head(*head) for head in heads]
    check_heads(heads, *rates.shape)
    for index, head in enumerate(heads):
        if np.isnan(rates[head]) or head in heads[:index]:
            raise ValueError(f"{head} {'cannot fire' if np.isnan(rates[head]) else 'stands twice among the heads'}")
    pool = [Head(*pair) for pair in np.ndindex(rates.shape) if pair not in heads and not np.isnan(rates[pair])]
    if len(pool) < len(heads):
        raise ValueError(f"{len(heads)} heads need as many others to compare with; there are {len(pool)}")
    rng, drawn = random.Random(seed), []
    for head in heads:
        rng.shuffle(pool)  # a stable sort leaves equally near ones in this order
        near = sorted(pool, key=lambda other, rate=rates[head]: abs(float(rates[other] - rate)))[:NEAREST]
        drawn.append(rng.choice(near))
        pool.remove(drawn[-1])
    return drawn
