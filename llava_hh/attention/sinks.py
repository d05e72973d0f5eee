"""Edits of patterns by sinks, keys that draw attention and say little: `ShareDensestMap` (EAH), `RecycleSinks` (VAR).

What they make of a pattern is what later edits of the head see.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from llava_hh.attention.call import AttentionCall
from llava_hh.attention.interventions import Decisions, OnHeads, check_factor
from llava_hh.attention.spans import Spans

PROMPT_OF_EAH = 647  # tokens, of the prompt that its threshold was found on
WIDTH_OF_VAR = 4096  # d_model, of the models that its threshold was found on


@dataclass(frozen=True)
class ShareDensestMap(OnHeads):
    """In the prompt, give all heads of a layer the attention map of the head with the most image sinks.

    An image key is a sink of a head if the prompt's later tokens give it more than `threshold` in the mean: its column
    of the map without the diagonal, over the number of rows from its own on. The head with the most sinks gives its
    map; of equal heads it is the first. Head 0 gives none, so nothing happens without sinks. Rows of the answer, and
    rows without an image, keep the fused output.

    A decision is one head in the prompt's last row; it fires where the head gets another's map.

    Args:
        heads: of each layer those that give and get maps.
        threshold: of a prompt of 647 tokens; of others it is longer or shorter as 647 is to their length, because a
            row's attention sums to 1.
    Raises:
        ValueError: no heads, or a threshold that is not allowed.
    Source: Zhang et al., "Shallow Focus, Deep Fixes: Enhancing Shallow Layers Vision Attention Sinks to Alleviate
        Hallucination in LVLMs" (EMNLP 2025), and its code (EAH): 0.0008 there, 0.002 in its README.
    Differs: the code divides by 647 minus the key's column, whatever the prompt, skips the first image key, and lets
        the batch's first row decide; ours counts in each row.
    """

    threshold: float = 0.002
    acts_on_answers: ClassVar[bool] = True
    needs_image_keys: ClassVar[bool] = True
    edits_prompt: ClassVar[bool] = True
    order: ClassVar[float] = 1.6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factor("threshold", self.threshold)

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> Decisions | None:
        first, index, predict, last = spans.answers
        n_queries = len(index)
        if first == 0 and call.memory:  # rows of an answer, whose prompt was seen
            return None
        if int(call.first_index) != 0 or int(last.max()) >= n_queries:
            raise NotImplementedError("EAH needs the whole prompt in one forward")
        call.memory["is seen"] = True
        rows = call.seen & (index <= last[:, None]) & spans.image.any(-1, keepdim=True)  # batch query
        later = rows.flip(1).cumsum(1).flip(1).clamp(min=1)  # rows from each key's own on
        least = self.threshold * PROMPT_OF_EAH / rows.sum(1).clamp(min=1)
        image = spans.image[:, :n_queries]
        sinks = []
        for head in heads.split(1):  # one map at a time
            square = call.pattern(head)[:, 0, :, :n_queries].masked_fill(~rows[..., None], 0).tril(-1)
            sinks.append(((square.sum(1) / later > least[:, None]) & image).sum(-1))
        winner = torch.stack(sinks, 1).argmax(1)  # batch; the first of the most
        acts = rows & (winner != 0)[:, None]
        given = torch.zeros(*rows.shape, call.key.shape[2], device=rows.device)  # batch query key
        for chosen in winner[winner != 0].unique():
            given[winner == chosen] = call.pattern(heads[chosen : chosen + 1])[winner == chosen, 0]
        among = torch.zeros(call.query.shape[1], dtype=torch.bool, device=heads.device)
        among[heads] = True

        def shared(pattern: Tensor, of_heads: Tensor, first_row: int) -> Tensor:
            where = acts[:, None, first_row:, None] & among[of_heads, None, None]
            return torch.where(where, given[:, None, first_row:], pattern)

        call.write(heads, given[:, None] @ call.values(heads).float(), acts[:, None])
        call.pattern_edits.append(shared)
        decides = predict[:, first:] & (index[first:] == last[:, None]) & rows[:, first:]
        is_other = torch.arange(len(heads), device=heads.device) != winner[:, None]
        return Decisions(is_other[:, :, None] & (decides & acts[:, first:])[:, None], decides)


def first_of(rows: Tensor) -> int:
    """The first query row that is True in some batch row; their number where none is. `rows` is (batch, query)."""
    some = rows.any(0)
    return int(some.long().argmax()) if some.any() else len(some)


@dataclass(frozen=True)
class RecycleSinks(OnHeads):
    """In rows after the image, move a share of the attention on sinks to the image tokens that are none.

    A token of the prompt is a sink of a layer if what enters the layer there, divided by its root mean square, exceeds
    `tau` somewhere. Only heads whose attention on the image sums to `least_mass`, with at most the share
    `most_sunk` of it on sinks, are changed: the weights of all sinks, also in the text, times `kept`; what that frees
    goes to the other image tokens in proportion to their weights, so the row still sums to 1.

    A decision is one head in one answer row; it fires where weight is moved.

    Args:
        heads: at least one.
        kept: from 0 to 1; 1 moves nothing.
        tau: for 4,096 dimensions; for d of them it is times sqrt(d / 4096), as the largest value that there can be.
        most_sunk, least_mass: fractions.
        dimensions: where to look for values above `tau`; all of them if there are none.
    Raises:
        ValueError: no heads, or a number that is not allowed.
    Source: Kang et al., "See What You Are Told: Visual Attention Sink in Large Multimodal Models" (ICLR 2025), and its
        code (VAR): 0.6, 20, 0.5, 0.2, from layer 2 to the last but one; dimensions 1415 and 2533 of Vicuna-7B, 2100 and
        4743 of 13B.
    Differs: the code handles the coordinates of the batch's first row alone, takes the share of 1e-6 more for each
        token, looks at the dimensions that it has for 7B and 13B, and at 20 in both. By default ours looks at all: a
        token is a sink where any exceeds `tau`, which on any set of captions is the same as the dimensions that exceed
        it on at least one of its tokens. A model of which one dimension is large everywhere, as mini's 507th, has
        hardly anything but sinks, and is hardly changed.
    """

    kept: float = 0.6
    tau: float = 20.0
    most_sunk: float = 0.5
    least_mass: float = 0.2
    dimensions: tuple[int, ...] = ()
    acts_after_image: ClassVar[bool] = True
    acts_on_answers: ClassVar[bool] = True
    needs_image_keys: ClassVar[bool] = True
    reads_hidden: ClassVar[bool] = True
    edits_prompt: ClassVar[bool] = True
    order: ClassVar[float] = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factor("tau", self.tau)
        if min(self.dimensions, default=0) < 0:
            raise ValueError(f"dimensions are numbers from 0 up, not {min(self.dimensions)}")
        for name in ("kept", "most_sunk", "least_mass"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {getattr(self, name)}")

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> Decisions:
        first, index, predict, _ = spans.answers
        sinks = self._sinks(call, spans)
        after = spans.after_image[:, index]  # batch query
        first_row = first_of(after)

        def recycled(pattern: Tensor, of_heads: Tensor, from_row: int) -> tuple[Tensor, Tensor]:
            image, sunk = (pattern.masked_fill(~each[:, None, None], 0) for each in (spans.image, sinks))
            mass, wasted = image.sum(-1), image.masked_fill(~sinks[:, None, None], 0).sum(-1)
            chosen = (mass >= self.least_mass) & (wasted <= self.most_sunk * mass) & after[:, None, from_row:]
            chosen &= (sunk.sum(-1) > 0) & (mass > wasted) & torch.isin(of_heads, heads)[:, None]
            freed = (1 - self.kept) * sunk.sum(-1) / (mass - wasted)
            factor = 1 + freed[..., None] * (spans.image & ~sinks)[:, None, None]
            factor = factor.masked_fill(sinks[:, None, None], self.kept)
            return torch.where(chosen[..., None], pattern * factor, pattern), chosen

        pattern, chosen = recycled(call.pattern(heads, first_row), heads, first_row)
        chosen &= self.kept != 1
        call.write(heads, pattern @ call.values(heads).float(), chosen, first_row)
        call.pattern_edits.append(lambda *given: recycled(*given)[0])
        decides = (predict & after)[:, first:]
        fired = pad(chosen, (first_row, 0))[:, :, first:]
        return Decisions(fired & decides[:, None], decides)

    def _sinks(self, call: AttentionCall, spans: Spans) -> Tensor:
        """The sinks among the keys, (batch, key) bool; those of the prompt are kept for later forwards."""
        _, index, _, last = spans.answers
        n_keys = call.key.shape[2]
        known = call.memory.get(call.layer)
        if known is None or len(index) > 1:  # a step of one token adds none
            hidden = call.hidden.float()
            normed = hidden * hidden.square().mean(-1, keepdim=True).add(1e-6).rsqrt()
            if max(self.dimensions, default=0) >= hidden.shape[-1]:
                raise ValueError(f"no dimension {max(self.dimensions)}: the model has {hidden.shape[-1]}")
            if self.dimensions:
                normed = normed[..., list(self.dimensions)]
            tau = self.tau * (hidden.shape[-1] / WIDTH_OF_VAR) ** 0.5
            new = (normed.abs().amax(-1) > tau) & call.seen & (index <= last[:, None])
            begin = int(call.first_index)
            if known is None and begin:
                raise NotImplementedError("VAR finds sinks in the prompt, of which it must see the beginning")
            known = new if known is None or begin == 0 else torch.cat([known[:, :begin], new], 1)
            call.memory[call.layer] = known
        known = known.repeat_interleave(len(call.query) // len(known), 0)
        return pad(known, (0, max(0, n_keys - known.shape[1])))[:, :n_keys]
