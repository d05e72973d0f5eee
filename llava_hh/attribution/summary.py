"""Head lists, scores with intervals and stability of measured targets."""

from collections.abc import Mapping

import numpy as np

from llava_hh.attribution.contrast import contrastive_influence, influence, rank_heads
from llava_hh.attribution.stability import bootstrap_interval, half_contrasts, overlap_of_halves
from llava_hh.attribution.stored import Columns, StoredColumns, pieces

OVERLAP_AT = (1, 2, 5, 10, 20, 30)
NUMBERS_AT_ONCE = 1 << 22


class Scores:
    """Scores of heads or modules, from the log-probabilities of all targets under each ablation, column by column.

    Attributes:
        measured: (...) bool, the ablations that were measured at every target.
        contrast, low, high, of_hallucinated, of_others: (measured,) float64.
        halves: (split, half, measured), as `half_contrasts`; None unless asked for.
    """

    def __init__(
        self,
        clean: np.ndarray,
        ablated: Columns | StoredColumns,
        hallucinated: np.ndarray,
        image_ids: np.ndarray,
        read_out: str,
        with_halves: bool,
    ) -> None:
        found: list[np.ndarray] = []
        halves: list[np.ndarray] = []
        measured: list[np.ndarray] = []
        for _, columns in pieces(ablated, NUMBERS_AT_ONCE):
            everywhere = ~np.isnan(columns).any(0)
            measured.append(everywhere)
            if not everywhere.any():  # few heads are on a shortlist
                continue
            own = influence(clean, columns[:, everywhere], read_out)
            contrast = contrastive_influence(own, hallucinated)
            means = [own[kind].mean(0, dtype=np.float64) for kind in (hallucinated, ~hallucinated)]
            interval = bootstrap_interval(own, hallucinated, image_ids)
            found.append(np.stack([contrast, *interval, *means]))
            if with_halves:
                halves.append(half_contrasts(own, hallucinated, image_ids))
        self.measured = np.concatenate(measured).reshape(ablated.shape[1:])
        self.contrast, self.low, self.high, self.of_hallucinated, self.of_others = np.concatenate(found, axis=1)
        self.halves = np.concatenate(halves, axis=2) if halves else None

    def record(self) -> dict:
        """The scores, JSON-ready, each in its place; None where it was not measured."""

        def placed(values: np.ndarray) -> list:
            whole = np.full(self.measured.shape, None, dtype=object)
            whole[self.measured] = values.tolist()
            return whole.tolist()

        return {
            "contrastive_influence": placed(self.contrast),
            "interval": {"contrastive_influence": [placed(self.low), placed(self.high)]},
            "influence_hallucinated": placed(self.of_hallucinated),
            "influence_true": placed(self.of_others),
        }


def summarise(
    hallucinated: np.ndarray,
    image_ids: np.ndarray,
    log_probs: Mapping[str, Columns | StoredColumns],
    read_out: str,
    list_length: int,
) -> dict:
    """Head lists, scores with intervals and stability of measured targets, JSON-ready.

    Where some heads were not measured at all targets, their scores are None, and what is said of all heads is left out:
    the list of weakest heads and the stability of the list. Memory is bounded by NUMBERS_AT_ONCE and the targets'.

    Args:
        hallucinated, image_ids: (target,) of each target, whether it is hallucinated and of which image.
        log_probs: `clean` (target,), `heads` (target, layer, head), NaN where it was not measured, and maybe `mha` and
            `mlp` (target, layer).
    Raises:
        ValueError: no hallucinated or no true word.
    """
    clean = log_probs["clean"].columns(0, 1)[:, 0]
    heads = Scores(clean, log_probs["heads"], hallucinated, image_ids, read_out, with_halves=True)
    names = np.argwhere(heads.measured).tolist()
    best, worst = ([names[place.head] for place in own] for own in rank_heads(heads.contrast[None], list_length))
    result = {"hal_heads": best, **heads.record()}
    if heads.measured.all():
        ks = [k for k in OVERLAP_AT if k < heads.contrast.size]
        result |= {"non_hal_heads": worst, "stability": {"half_overlap": overlap_of_halves(heads.halves, ks)}}
    modules = {
        kind: Scores(clean, log_probs[kind], hallucinated, image_ids, read_out, with_halves=False).record()
        for kind in ("mha", "mlp")
        if kind in log_probs
    }
    return {
        **result,
        **({"modules": modules} if modules else {}),
        "read_out": read_out,
        "n_hallucinated_words": int(hallucinated.sum()),
        "n_true_words": int((~hallucinated).sum()),
        "n_captions": len(set(image_ids.tolist())),
    }
