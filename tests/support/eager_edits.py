"""The interventions a second time, as slowly and plainly as possible: full attention maps, edited by Python loops.

Shares no code with the package beyond the dataclasses that say what to do.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from llava_hh.attention.interventions import (
    BoostImageScores,
    DeactivateText,
    Intervention,
    ScaleAttention,
    ScaleHeads,
    ZeroHeads,
)
from llava_hh.attention.layer_edits import AddConsensus, ScaleScores, SuppressBlindHeads
from llava_hh.attention.modules import decoder_layers, switch_attention
from llava_hh.attention.sinks import RecycleSinks, ShareDensestMap
from llava_hh.files.module_hooks import hooked
from tests.support.eager_sinks import recycle, share, sinks_of

NAME = "eager_edits"


class Editor:
    """Edits maps in the order in which the interventions stand, and counts what `DeactivateText` did."""

    def __init__(self, image_mask: Tensor, interventions: list[Intervention], response_start: list[int] | None):
        self.image = [[k for k, is_image in enumerate(row) if is_image] for row in image_mask.tolist()]
        self.interventions, self.response_start = (
            interventions,
            response_start or [image_mask.shape[1]] * len(image_mask),
        )
        self.decisions: dict[tuple[int, int, int, int, int], bool] = {}  # by intervention, layer, head, row, position
        self.scores: Tensor | None = None  # of the layer, before any edit
        self.first: list[int] = [0] * len(image_mask)  # position of each row that is no padding
        self.hidden: dict[int, Tensor] = {}  # by layer, what enters it
        self.sinks: dict[tuple[int, int], list[int]] = {}  # by layer and row

    @property
    def fired(self) -> Counter:
        return Counter((layer, head) for (_, layer, head, *_), fired in self.decisions.items() if fired)

    @property
    def decided(self) -> Counter:
        return Counter((layer, head) for _, layer, head, *_ in self.decisions)

    def edit(self, layer: int, weights: Tensor) -> None:
        batch, _, n_queries, n_keys = weights.shape
        self.weights = weights.clone()
        for each in self.interventions:
            heads = [head.head for head in each.heads if head.layer == layer]
            if isinstance(each, ShareDensestMap) and heads:
                self.share(each, layer, heads, weights)
                self.weights = weights.clone()
            for head in heads:
                for row in range(batch):
                    image = self.image[row]
                    after = list(range(image[-1] + 1, n_keys)) if image else []
                    if isinstance(each, SuppressBlindHeads):
                        self.suppress(each, layer, head, weights, row, n_keys - n_queries)
                    elif isinstance(each, ZeroHeads):
                        weights[row, head] = 0
                    elif isinstance(each, ScaleHeads):
                        by_row = each.factors if isinstance(each.factors[0], tuple) else [each.factors] * batch
                        weights[row, head] *= by_row[row][each.heads.index((layer, head))]
                    elif isinstance(each, RecycleSinks):
                        self.recycle(each, layer, head, weights, row, n_keys - n_queries)
                    elif isinstance(each, ScaleAttention):
                        alpha = each.alpha[row] if isinstance(each.alpha, tuple) else each.alpha
                        for key in after if each.span == "after_image" else image:
                            weights[row, head, :, key] *= alpha
                    elif isinstance(each, DeactivateText):
                        self.deactivate(each, layer, head, weights[row, head], after, row, n_keys - n_queries)

    def boost(self, layer: int, scores: Tensor) -> None:
        """Before the softmax, where a row predicts the answer; the alphas of a head are summed first."""
        n_queries, n_keys = scores.shape[2:]
        self.scores = scores.clone()
        for each in self.interventions:
            for row, keys in enumerate(self.image):
                for query in range(n_queries) if keys else ():
                    own = query + n_keys - n_queries
                    for head in [head.head for head in each.heads if head.layer == layer]:
                        if isinstance(each, AddConsensus) and own >= self.response_start[row] - 1:
                            for key in keys:
                                of_all = [abs(self.scores[row, h, query, key].item()) for h in range(scores.shape[1])]
                                scores[row, head, query, key] += each.alpha * sum(of_all) / len(of_all)
                        if isinstance(each, ScaleScores) and own > keys[-1]:
                            for key in range(keys[-1] + 1):
                                before = self.scores[row, head, query, key].item()
                                if before > -1e30:  # not masked
                                    amount = before if each.signed else abs(before)
                                    factor = each.image if key in keys else each.before
                                    scores[row, head, query, key] += (factor - 1) * amount
        for head in range(scores.shape[1]):
            boosts = [each for each in self.interventions if isinstance(each, BoostImageScores)]
            alpha = sum(each.alpha for each in boosts if (layer, head) in each.heads)
            for row, keys in enumerate(self.image):
                for query in range(n_queries):
                    if query + n_keys - n_queries < self.response_start[row] - 1:
                        continue
                    for key in keys:
                        scores[row, head, query, key] += alpha * abs(self.scores[row, head, query, key].item())

    def share(self, each: ShareDensestMap, layer: int, heads: list[int], weights: Tensor) -> None:
        """In a pass over the whole prompt; a step of one token changes nothing."""
        for row, image in enumerate(self.image if weights.shape[2] > 1 else ()):
            start = self.response_start[row]
            giver = share(each, heads, weights, image, self.first[row], start, row) if image else None
            for head in heads if image else ():
                fires = giver not in (None, head)
                self.decisions[self.interventions.index(each), layer, head, row, start - 1] = fires

    def recycle(self, each: RecycleSinks, layer: int, head: int, weights: Tensor, row: int, offset: int) -> None:
        if weights.shape[2] > 1:
            found = sinks_of(each, self.hidden[layer][row], self.first[row], self.response_start[row])
            self.sinks[layer, row] = found
        for query in range(weights.shape[2]):
            if not self.image[row] or query + offset <= self.image[row][-1]:
                continue
            moved = recycle(each, weights[row, head, query], self.image[row], self.sinks[layer, row])
            if query + offset >= self.response_start[row] - 1:
                key = self.interventions.index(each), layer, head, row, query + offset
                self.decisions[key] = moved and each.kept != 1

    def suppress(self, each: SuppressBlindHeads, layer: int, head: int, weights: Tensor, row: int, offset: int) -> None:
        """Ranked by plain sums, one row at a time; of equal ones the first are kept."""
        ranked = [own.head for own in each.heads if own.layer == layer]
        looked = self.scores if each.rank_by == "scores" else self.weights
        for query in range(weights.shape[2]):
            if query + offset < self.response_start[row] - 1 or not self.image[row]:
                continue
            gaze = {own: sum(looked[row, own, query, key].item() for key in self.image[row]) for own in ranked}
            kept = sorted(ranked, key=lambda own: (-gaze[own], ranked.index(own)))[: int(each.kept * len(ranked))]
            fires = head not in kept and each.factor != 1
            self.decisions[self.interventions.index(each), layer, head, row, query + offset] = fires
            if fires:
                weights[row, head, query] *= each.factor

    def deactivate(
        self, each: DeactivateText, layer: int, head: int, weights: Tensor, after: list[int], row: int, offset: int
    ) -> None:
        for query in range(len(weights)):
            if query + offset < self.response_start[row] - 1:
                continue
            span = [key for key in after if key <= query + offset]
            if not span:
                continue
            fires = sum(weights[query, key].item() for key in span) >= each.threshold
            self.decisions[self.interventions.index(each), layer, head, row, query + offset] = fires
            if fires:
                for key in span:
                    weights[query, key] = 0


_open: list[Any] = []


@contextmanager
def eager_edits(
    model: PreTrainedModel,
    image_mask: Tensor,
    interventions: list[Intervention],
    response_start: list[int] | None = None,
) -> Iterator[Editor]:
    """Like `intervene`, by loops over eager maps."""
    editor = Editor(image_mask, interventions, response_start)

    def keep(layer: int, _: nn.Module, args: tuple, kwargs: dict) -> None:
        editor.hidden[layer] = args[0] if args else kwargs["hidden_states"]

    hooks = ((layer, partial(keep, number)) for number, layer in enumerate(decoder_layers(model)))
    with hooked(hooks, before=True, with_kwargs=True), eager_by(model, editor):
        yield editor


@contextmanager
def eager_by(model: PreTrainedModel, editor: Any) -> Iterator[None]:
    """Eager attention with what an editor makes of scores (`boost`) and of maps (`edit`), in place, layer by layer."""
    _open.append(editor)
    try:
        with switch_attention(model, NAME):
            yield
    finally:
        _open.pop()


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_
) -> tuple[Tensor, Tensor]:
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = (query @ key.transpose(2, 3)) * scaling + attention_mask
    if scores.shape[2] > 1:
        seen = attention_mask[:, 0].diagonal(dim1=1, dim2=2) > -1e30
        _open[-1].first = [row.index(True) for row in seen.tolist()]
    _open[-1].boost(module.layer_idx, scores)
    weights = scores.softmax(-1)
    _open[-1].edit(module.layer_idx, weights)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, eager_mask)
