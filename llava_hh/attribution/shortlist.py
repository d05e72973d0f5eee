"""Exact influence of few heads only: those that an estimate puts first, or those that a race leaves in.

What is measured is exact; a head that the whole attribution would have put on the list may be missed.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t as student

from llava_hh.attribution.captions import join_arrays
from llava_hh.attribution.contrast import contrastive_influence, influence, rank_heads
from llava_hh.attribution.estimate import estimated_influence
from llava_hh.attribution.replacement import Replacement
from llava_hh.attribution.run import AttributionSettings, CaptionAttribution
from llava_hh.attribution.stability import sum_by_image
from llava_hh.attribution.summary import marks_of
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
    teacher: CaptionAttribution, entries: list[dict], replacement: Replacement, run: Run, settings: AttributionSettings
) -> Shortlist:
    """Measure the `settings.screen` heads of largest estimated contrastive influence alone.

    The estimate is a heuristic: of zero ablation, to first order (`estimate_every_head`).

    Args:
        run: of the measurement; the estimates get a folder in it.
    """
    with start_run(run.folder / "estimates", settings, [entry["image_id"] for entry in entries]) as estimates:
        teacher.estimate_blocks(entries, estimates)
    arrays = join_arrays(estimates.finished_arrays())
    hallucinated, _, objects = marks_of(estimates.finished_rows(), settings.match)
    drops = estimated_influence(arrays["clean"], arrays["drops"], settings.read_out)
    contrast = contrastive_influence(drops, hallucinated, objects)
    teacher.run_blocks(entries, replacement, run, heads=rank_heads(contrast, settings.screen)[0])
    about = {"kind": "screen", "n_heads": settings.screen, "estimated_contrastive_influence": contrast.tolist()}
    return _shortlist(run.finished_rows(), join_arrays(run.finished_arrays()), about)


def race(
    teacher: CaptionAttribution, entries: list[dict], replacement: Replacement, run: Run, settings: AttributionSettings
) -> Shortlist:
    """Measure heads round by round, each on a further share of the captions; heads that `settings.race` others have
    beaten drop out.

    Args:
        run: whose folder holds one run per round.
    """
    shape = teacher.lvlm.n_layers, teacher.lvlm.n_heads
    alive, left_after = [Head(*index) for index in np.ndindex(shape)], np.zeros(shape, dtype=int)  # after captions
    rows: list[dict] = []
    parts: list[dict[str, np.ndarray]] = []
    n_rounds = min(ROUNDS, len(entries))
    for number in range(n_rounds):
        first, last = (len(entries) * end // n_rounds for end in (number, number + 1))
        of_round = replace(settings, round=number, heads=[list(head) for head in alive])
        manifest = [entry["image_id"] for entry in entries[first:last]]
        with start_run(run.folder / "rounds" / f"{number:02d}", of_round, manifest) as part:
            teacher.run_blocks(entries[first:last], replacement, part, heads=alive)
        rows += part.finished_rows()
        parts.append(join_arrays(part.finished_arrays()))
        log_probs = join_arrays(parts)
        if number < n_rounds - 1:
            measured = log_probs["heads"][:, *np.array(alive).T]  # target head
            influences = influence(log_probs["clean"], measured, settings.read_out)
            beaten = beaten_heads(influences, *marks_of(rows)[:2], settings.race, CONFIDENCE)
            left_after[*np.array(alive).T] = last * beaten
            alive = [head for head, out in zip(alive, beaten, strict=True) if not out]
    about = {"kind": "race", "k": settings.race, "confidence_per_test": CONFIDENCE}
    return _shortlist(rows, log_probs, {**about, "left_after_captions": left_after.tolist()})


def _shortlist(rows: list[dict], log_probs: dict[str, np.ndarray], about: dict) -> Shortlist:
    heads = log_probs["heads"]
    return Shortlist(rows, log_probs, {**about, "exact_evaluations": int((~np.isnan(heads)).sum()), "of": heads.size})


def beaten_heads(
    influences: np.ndarray, hallucinated: np.ndarray, image_ids: np.ndarray, k: int, confidence: float
) -> np.ndarray:
    """Heads whose contrastive influence lies below that of at least k others, each by a paired one-sided test.

    A test is of the difference of two heads' contrastive influences over the same images: its standard error is that of
    a ratio estimator clustered by image, its quantile Student's. A head that belongs to the true top k is dropped only
    if a truly weaker head passes such a test against it: `confidence` is per test, not corrected for their number.

    Args:
        influences: (target, head), of the heads that are still measured; hallucinated, image_ids: (target,).
        k: length of the list that is looked for.
        confidence: of each test, above 0.5 and below 1.
    Returns: (head,) bool; nothing is beaten while there are fewer than two images, or words of one kind only.
    """
    if hallucinated.all() or not hallucinated.any() or len(set(image_ids.tolist())) < 2:
        return np.zeros(influences.shape[1], dtype=bool)
    sums = sum_by_image(influences, hallucinated, image_ids)
    n_images = sums.counts.shape[1]
    contrast = sums.contrasts(np.ones((1, n_images)))[0]
    pulls = sums.pulls()
    products = pulls.T @ pulls  # head head
    squares = products.diagonal()
    variances = (squares[:, None] + squares - 2 * products).clip(min=0) * n_images / (n_images - 1)
    lead = contrast[:, None] - contrast  # of the row's head over the column's
    ahead = lead > student.ppf(confidence, n_images - 1) * np.sqrt(variances)
    return ahead.sum(0) >= k
