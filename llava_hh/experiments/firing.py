"""Control heads that fire as often: how often every head would be switched off by AD-HH, and heads of like rates.

A control that fires less often than the chosen heads harms less, whatever the chosen heads do. So for each chosen head
another is drawn among those whose rate is nearest.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import AttentionCall, DeactivateText, Decisions
from llava_hh.attention.modules import heads_on_image_alone
from llava_hh.attention.spans import Spans
from llava_hh.attribution.captions import TeacherForced, read_captions, refuse_other_model
from llava_hh.experiments.per_caption import Measured, found_in, measure_captions
from llava_hh.files.files import write_json
from llava_hh.files.memory import in_parts
from llava_hh.heads import Head, check_heads
from llava_hh.models.lvlm import Batch, Lvlm
from llava_hh.runs.run import processes, provenance, start_run
from llava_hh.runs.settings import CaptionedSettings

NEAREST = 5  # heads that a control is drawn among


@dataclass(frozen=True)
class FiringSettings(CaptionedSettings):
    """What decides how often heads fire."""

    threshold: float


@dataclass(frozen=True)
class _Watch(DeactivateText):
    """Decides as `DeactivateText` does, and leaves the output as it is."""

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> Decisions:
        return super().edit(replace(call, output=call.output.clone()), heads, spans)


class MatchedControls(NamedTuple):
    """Control heads by seed, and how often the chosen heads and each control fire (fractions, in the heads' order)."""

    heads: dict[int, list[Head]]
    chosen_rates: list[float]
    control_rates: dict[int, list[float]]


@torch.no_grad()
def fired_counts(lvlm: Lvlm, batch: Batch, n_answers: int, threshold: float, heads: Sequence[Head]) -> np.ndarray:
    """How often each of `heads` would fire on one teacher-forced caption, and out of how many decisions, (head, 2).

    Nothing is edited, so the rates of one head do not depend on which others are watched.

    Args:
        n_answers: how many rows decide, from the last of the prompt on: one for each token that was generated.
    """

    def counts(part: Sequence[Head]) -> np.ndarray:
        watch = [_Watch(tuple(part), threshold)]
        with intervene(lvlm.model, batch.image_mask, watch, batch.response_start) as trace:
            lvlm.model.base_model(**batch.inputs, use_cache=False)
        trace.finish(n_answers)
        fired = trace.fired
        return np.array([fired[head] for head in part], dtype=np.int64)

    return np.concatenate(in_parts(counts, heads)[0])


def firing_rates(
    lvlm: Lvlm,
    captions: Path,
    image_folder: Path,
    threshold: float,
    out: Path,
    batch_size: int,
    limit: int | None = None,
) -> np.ndarray:
    """Share of answer tokens at which each head's mass after the image reaches `threshold`, (layer, head).

    By the very rule of `DeactivateText`, where the model reads its own greedy captions once more and no head is
    edited. NaN for heads that attend to the image alone. Writes firing_rates.json into the folder `out`, which is that
    of a run: resumed, shared over processes.

    Args:
        captions: captions_eval_results.json of the model's greedy captions; limit: the first so many of them.
    Raises:
        ValueError: captions of another model, or without any token after an image.
    """
    refuse_other_model(captions, lvlm.path)
    every, _ = read_captions(captions)
    if not every:
        raise ValueError(f"--captions {captions}: no captions")
    entries = every[:limit]
    teacher = TeacherForced.of(lvlm, image_folder)
    lacking = set(heads_on_image_alone(lvlm.model))
    heads = [Head(*place) for place in np.ndindex(lvlm.n_layers, lvlm.n_heads) if place not in lacking]
    settings = FiringSettings(**teacher.fields(every, batch_size, limit), threshold=threshold)

    def measure(entry: dict) -> Measured:
        n_answers = len(entry["token_ids"]) + (entry["finish_reason"] == "stop")  # the end token was decided on too
        counts = fired_counts(lvlm, teacher.batch(entry), n_answers, threshold, heads)
        return Measured([{"image_id": entry["image_id"], "n_tokens": n_answers}], {"counts": counts[None]})

    with start_run(out, settings, [entry["image_id"] for entry in entries]) as run:
        measure_captions(run, entries, batch_size, "firing rates", teacher.image_of, measure)
        own = "null"  # an empty text cannot be sent
        if processes().is_main:
            fired, decided = found_in(run).arrays["counts"].sum(0).T
            if not decided.all():
                raise ValueError(f"--captions {captions}: no token of them comes after an image")
            rates = np.full((lvlm.n_layers, lvlm.n_heads), np.nan)
            rates[*np.transpose(heads)] = fired / decided
            listed = [[None if np.isnan(rate) else rate for rate in layer] for layer in rates.tolist()]
            content = {"threshold": threshold, "rates": listed, "n_tokens": int(decided[0]), "n_captions": len(entries)}
            write_json(out / "firing_rates.json", {**content, "settings": settings.record(), "run": provenance()})
            own = json.dumps(listed)
    return np.array(json.loads(processes().exchange(own)[0]), dtype=np.float64)


def matched_heads(rates: np.ndarray, heads: Sequence[Head], seed: int) -> list[Head]:
    """For each of `heads` another one, drawn among the NEAREST whose firing rates are nearest to its own.

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
    for place, head in enumerate(heads):
        if np.isnan(rates[head]) or head in heads[:place]:
            raise ValueError(f"{head} {'cannot fire' if np.isnan(rates[head]) else 'stands twice among the heads'}")
    pool = [Head(*place) for place in np.ndindex(rates.shape) if place not in heads and not np.isnan(rates[place])]
    if len(pool) < len(heads):
        raise ValueError(f"{len(heads)} heads need as many others to compare with; there are {len(pool)}")
    rng, drawn = random.Random(seed), []
    for head in heads:
        rng.shuffle(pool)  # a stable sort leaves equally near ones in this order
        near = sorted(pool, key=lambda other, own=rates[head]: abs(float(rates[other] - own)))[:NEAREST]
        drawn.append(rng.choice(near))
        pool.remove(drawn[-1])
    return drawn


def matched_controls(
    lvlm: Lvlm,
    captions_file: Path,
    image_folder: Path,
    heads: Sequence[Head],
    threshold: float,
    seeds: Sequence[int],
    out: Path,
    batch_size: int,
    limit: int | None = None,
) -> MatchedControls:
    """Controls of `heads` that fire as often at `threshold`, one list for each seed; see `firing_rates`.

    Raises:
        ValueError, IndexError: as `firing_rates` and `matched_heads`.
    """
    rates = firing_rates(lvlm, captions_file, image_folder, threshold, out, batch_size, limit)
    controls = {seed: matched_heads(rates, heads, seed) for seed in seeds}
    by_seed = {seed: [float(rates[head]) for head in drawn] for seed, drawn in controls.items()}
    return MatchedControls(controls, [float(rates[head]) for head in heads], by_seed)
