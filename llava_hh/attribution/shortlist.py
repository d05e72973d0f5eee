"""Exact influence of few heads only: those that an estimate puts first, or those that a race leaves in.

What is measured is exact; a head that the whole attribution would have put on the list may be missed.
"""

from dataclasses import dataclass, replace

import numpy as np

from llava_hh.attribution.captions import join_arrays
from llava_hh.attribution.contrast import contrastive_influence, influence, rank_heads
from llava_hh.attribution.estimate import estimated_influence
from llava_hh.attribution.race import beaten_heads
from llava_hh.attribution.replacement import Replacement
from llava_hh.attribution.run import AttributionSettings, CaptionAttribution
from llava_hh.heads import Head
from llava_hh.runs.blocks import Run
from llava_hh.runs.run import start_run

ROUNDS = 10
CONFIDENCE = 0.975  # of one test of one head against another


@dataclass(frozen=True)
class Shortlist:
    """What was measured: rows of targets, `clean` (target,) and `heads` (target, layer, head), NaN where it was not.

    about: how the list came about, and exact evaluations of a head at a target made, `of` all; JSON-ready.
    """

    rows: list[dict]
    log_probs: dict[str, np.ndarray]
    about: dict


def screen(
    attribution: CaptionAttribution,
    entries: list[dict],
    replacement: Replacement,
    run: Run,
    settings: AttributionSettings,
    batch_size: int,
    read_out: str,
    n_heads: int,
) -> Shortlist:
    """Measure the heads of largest estimated contrastive influence alone.

    The estimate is a heuristic: of zero ablation, to first order (`estimate_every_head`).

    Args:
        run: of the measurement; the estimates get a folder of their own in it.
    """
    with start_run(run.folder / "estimates", settings, [entry["image_id"] for entry in entries]) as estimates:
        attribution.estimate_blocks(entries, estimates, batch_size)
    rows, arrays = estimates.finished_rows(), join_arrays(estimates.finished_arrays())
    hallucinated = np.array([row["hallucinated"] for row in rows], dtype=bool)
    contrast = contrastive_influence(estimated_influence(arrays["clean"], arrays["drops"], read_out), hallucinated)
    attribution.run_blocks(entries, replacement, run, batch_size, heads=rank_heads(contrast, n_heads)[0])
    about = {"kind": "screen", "n_heads": n_heads, "estimated_contrastive_influence": contrast.tolist()}
    return _shortlist(run.finished_rows(), join_arrays(run.finished_arrays()), about)


def race(
    attribution: CaptionAttribution,
    entries: list[dict],
    replacement: Replacement,
    run: Run,
    settings: AttributionSettings,
    batch_size: int,
    read_out: str,
    k: int,
) -> Shortlist:
    """Measure heads round by round, each on a further share of the captions, without those that k others have beaten.

    Args:
        run: whose folder holds one run per round.
    """
    n_layers, n_heads = attribution.lvlm.n_layers, attribution.lvlm.n_heads
    alive = [Head(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    left_after = np.zeros((n_layers, n_heads), dtype=int)  # captions
    rows: list[dict] = []
    parts: list[dict[str, np.ndarray]] = []
    n_rounds = min(ROUNDS, len(entries))
    for number in range(n_rounds):
        first, last = (len(entries) * end // n_rounds for end in (number, number + 1))
        own = replace(settings, round=number, heads=[list(head) for head in alive])
        manifest = [entry["image_id"] for entry in entries[first:last]]
        with start_run(run.folder / "rounds" / f"{number:02d}", own, manifest) as part:
            attribution.run_blocks(entries[first:last], replacement, part, batch_size, heads=alive)
        rows += part.finished_rows()
        parts.append(join_arrays(part.finished_arrays()))
        log_probs = join_arrays(parts)
        if number == n_rounds - 1:
            break
        hallucinated = np.array([row["hallucinated"] for row in rows], dtype=bool)
        image_ids = np.array([row["image_id"] for row in rows])
        measured = log_probs["heads"][:, *np.array(alive).T]  # target head
        influences = influence(log_probs["clean"], measured, read_out)
        beaten = beaten_heads(influences, hallucinated, image_ids, k, CONFIDENCE)
        for head, out in zip(alive, beaten, strict=True):
            left_after[head] = last * out
        alive = [head for head, out in zip(alive, beaten, strict=True) if not out]
    about = {"kind": "race", "k": k, "confidence_per_test": CONFIDENCE, "left_after_captions": left_after.tolist()}
    return _shortlist(rows, log_probs, about)


def _shortlist(rows: list[dict], log_probs: dict[str, np.ndarray], about: dict) -> Shortlist:
    done = int((~np.isnan(log_probs["heads"])).sum())
    return Shortlist(rows, log_probs, {**about, "exact_evaluations": done, "of": log_probs["heads"].size})
