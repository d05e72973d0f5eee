"""ILVAD: image tokens that attention jumps to between layers, and what looked at them, count more.

Two passes: ten tokens of greedy decoding find the evidence of each row; the answer is then decoded anew.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from llava_hh.attention.call import AttentionCall
from llava_hh.attention.hooks import observe
from llava_hh.attention.interventions import Decisions, OnHeads, check_factor
from llava_hh.attention.sinks import first_of
from llava_hh.attention.spans import Spans
from llava_hh.decoding.method import CannotDecode, generate_greedily
from llava_hh.heads import Head
from llava_hh.models.lvlm import Batch, Lvlm

LOOKED_AT = 10  # tokens of the first pass, of which the first one's attention does not count
SPREADS = 3.0  # standard deviations from the mean at which weights are cut


@dataclass(frozen=True)
class AmplifyEvidence(OnHeads):
    """Raise the attention of answer rows on the image tokens that are evidence, and on text tokens that looked at them.

    `evidence_of` gives the evidence m of each image token, from 0 to 1. In every layer the half of the heads that look
    at the evidence most, by the mean of alpha m over their attention on the image, say how much a position looked
    there, and this adds up over layers: for the prompt behind the image, but for its last token, and for each row that
    predicts a token, whose sum is that token's. In the layers of `heads` the same heads' attention on the image is
    times exp(alpha m). Of the half of the heads that attend most to what comes after the image, the attention on these
    tokens is times beta plus their sums, scaled to 0 to 1. Every row is then divided by its sum.

    A decision is one head in one answer row; it fires where the head is in either half.

    Args:
        heads: whole layers, those that are changed; all layers are looked at.
        alpha, beta: at least 0; alpha 0 and beta 1 are greedy decoding, up to rounding.
        jump: times the mean attention of an image token, from where on attention is high; no token of n can have more
            than n times the mean.
    Raises:
        ValueError: no heads, or a number that is not allowed.
    Source: "ILVAD" (ICML 2026) by its code: layers 5 to 25, alpha 5, beta 0.3 for captions; 0 to 30, beta 1 for POPE.
    Differs: the code reads the batch's first row alone, and divides 0 by 0 where all sums are equal, or the answer ends
        with its first token; ours takes 0 for such sums, and no evidence for such an answer.
    """

    alpha: float = 5.0
    beta: float = 0.3
    jump: float = 5.0
    needs_image_keys: ClassVar[bool] = True
    passes_first: ClassVar[bool] = True
    order: ClassVar[float] = 1.7

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "beta", "jump"):
            check_factor(name, getattr(self, name))

    @torch.no_grad()
    def prepared(self, lvlm: Lvlm, batch: Batch) -> "FollowEvidence":
        """The evidence of each row, found by decoding the first ten tokens."""
        every = [Head(layer, head) for layer in range(lvlm.n_layers) for head in range(lvlm.n_heads)]
        image = batch.image_mask
        seen: dict[int, list[Tensor]] = defaultdict(list)  # by layer, (row, key) of each step but the first

        def look(layer: int, heads: Tensor, call: AttentionCall) -> None:
            if call.query.shape[2] > 1:
                return
            if call.key.shape[2] != image.shape[1] + len(seen[layer]) + 1:
                raise CannotDecode("ILVAD needs all keys of the prompt, in a cache that grows by one key a token")
            on_image = call.pattern(heads)[:, :, 0, : image.shape[1]] * image.to(call.query.device)[:, None]
            chosen = on_image.sum(-1).topk(max(1, len(heads) // 2), dim=1).indices
            seen[layer].append(on_image.gather(1, chosen[..., None].expand(-1, -1, image.shape[1])).mean(1).cpu())

        with observe(lvlm.model, every, look):
            answers = generate_greedily(lvlm, batch, LOOKED_AT)
        steps = [len(answer.token_ids) + (answer.finish_reason == "stop") - 1 for answer in answers]
        evidence = torch.zeros(image.shape)
        for row, n_steps in enumerate(steps):
            own = image[row].cpu()
            if n_steps > 0 and own.any():
                looked = [torch.stack(seen[layer][:n_steps])[:, row, own].mean(0) for layer in sorted(seen)]
                evidence[row, own] = evidence_of(torch.stack(looked), self.jump)
        modified = frozenset(head.layer for head in self.heads)
        return FollowEvidence(tuple(every), self.alpha * evidence, self.beta, modified)

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> None:
        raise TypeError("AmplifyEvidence acts through what `prepared` gives for a batch")


def evidence_of(attention: Tensor, jump: float) -> Tensor:
    """How much each image token is evidence, (token,) from 0 to 1.

    A token counts each layer to which its attention jumps: above `jump` times the mean there, and not in the layer
    before. It counts nothing if its attention over all layers is not above the mean.

    Args:
        attention: (layer, token), on the image.
    """
    high = attention > jump * attention.mean(1, keepdim=True)
    jumps = (high[1:] & ~high[:-1]).sum(0).float()
    mean = attention.mean(0)
    jumps = jumps.masked_fill(mean <= mean.mean(), 0)[None]
    every = torch.ones_like(jumps, dtype=torch.bool)
    cut = _cut(jumps, every)
    return _rescaled(cut, cut, every)[0]


def _cut(values: Tensor, where: Tensor) -> Tensor:
    """Values of `where` no further than three standard deviations from their mean, row by row; others as they are.

    Both are (row, value).
    """
    n = where.sum(1, keepdim=True)
    mean = values.masked_fill(~where, 0).sum(1, keepdim=True) / n.clamp(min=1)
    variance = (values - mean).square().masked_fill(~where, 0).sum(1, keepdim=True) / (n - 1).clamp(min=1)
    spread = SPREADS * variance.sqrt()
    return torch.where(where & (n > 1), values.clamp(mean - spread, mean + spread), values)


def _rescaled(values: Tensor, of: Tensor, where: Tensor) -> Tensor:
    """Each row's values less the least, over the range, of those of `of` that `where` names; 0 where they are equal."""
    least = of.masked_fill(~where, torch.inf).amin(1, keepdim=True)
    span = of.masked_fill(~where, -torch.inf).amax(1, keepdim=True) - least
    return torch.where(span > 0, (values - least) / span, 0)


@dataclass(frozen=True, eq=False)
class FollowEvidence(OnHeads):
    """`AmplifyEvidence` of a batch whose evidence is known; an answer must be decoded token by token, with a cache.

    Args:
        heads: all of the model.
        log_map: alpha times the evidence, (row, prompt position).
        modified: the layers that are changed.
    """

    log_map: Tensor
    beta: float
    modified: frozenset[int]
    acts_after_image: ClassVar[bool] = True
    acts_on_answers: ClassVar[bool] = True
    edits_prompt: ClassVar[bool] = True
    order: ClassVar[float] = 1.7
    first_layer: ClassVar[int] = 0

    def check(self, n_rows: int) -> None:
        """Check that each row of the evidence stands equally often among `n_rows`.

        Raises:
            ValueError: another number.
        """
        if n_rows % len(self.log_map):
            raise ValueError(f"evidence of {len(self.log_map)} rows, image_mask has {n_rows}")

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> Decisions | None:
        first, index, predict, last = spans.answers
        batch, n_heads, n_queries, _ = call.query.shape
        n_keys = call.key.shape[2]
        if n_queries - first != 1 or call.copies > 1:
            raise CannotDecode("ILVAD follows an answer token by token, with a cache and without beams")
        if (device := call.query.device) not in call.memory:
            call.memory[device] = self.log_map.to(device)
        weights = call.memory[device]
        weights = pad(weights, (0, n_keys - weights.shape[1]))
        weights = weights.repeat_interleave(batch // len(weights), 0) * spans.image  # batch key
        sums = self._sums(call, n_keys, n_queries)
        first_row = min(first_of(spans.after_image[:, index]), n_queries - 1)
        pattern = call.pattern(heads, first_row)
        on_evidence = (pattern * weights[:, None, None]).sum(-1)  # batch head query
        on_image = pattern.masked_fill(~spans.image[:, None, None], 0).sum(-1)
        half = max(1, n_heads // 2)
        looks = _highest(on_evidence / (on_image + 1e-8), half)
        said = on_evidence.masked_fill(~looks, 0).sum(1) / half  # batch query
        columns = index[first_row:]
        of_prompt = spans.after_image[:, columns] & (columns < last[:, None])
        sums["keys"][:, columns] += said * of_prompt
        sums["next"] += said[:, -1]
        decides = predict[:, first:] & spans.after_image[:, index[first:]]
        if call.layer not in self.modified:
            return None
        row, text = pattern[:, :, -1], spans.after_image[:, :n_keys]
        before = sums["keys"]
        sums["keys"] = _cut(before, text)
        factor = torch.where(text, _rescaled(sums["keys"], before, text) + self.beta, 1.0)
        reads = _highest(row.masked_fill(~text[:, None], 0).sum(-1)[..., None], half)
        evident = torch.where(looks[:, :, -1:], weights.exp()[:, None], 1.0)
        scale = evident * torch.where(reads, factor[:, None], 1.0)  # batch head key
        acts = decides[:, -1]

        def amplified(old: Tensor, of_heads: Tensor, from_row: int) -> Tensor:
            new = old[:, :, -1] * scale[:, of_heads]
            new = new / (new.sum(-1, keepdim=True) + 1e-8)
            return torch.cat([old[:, :, :-1], torch.where(acts[:, None, None], new, old[:, :, -1])[:, :, None]], 2)

        call.pattern_edits.append(amplified)
        outputs = amplified(pattern[:, :, -1:], heads, n_queries - 1) @ call.values(heads).float()
        call.write(heads, outputs, acts[:, None, None], n_queries - 1)
        return Decisions((looks[:, :, -1:] | reads) & decides[:, None], decides)

    def _sums(self, call: AttentionCall, n_keys: int, n_queries: int) -> dict[str, Tensor]:
        """How much each key looked at the evidence, in all layers so far: `keys` (batch, key), and `next`, (batch,)."""
        sums, batch = call.memory, len(call.query)
        if call.layer == self.first_layer:
            if n_queries > 1 or "keys" not in sums:
                sums["keys"] = torch.zeros(batch, n_keys, device=call.query.device)
            else:
                sums["keys"] = torch.cat([sums["keys"], sums["next"][:, None]], 1)
            sums["next"] = torch.zeros(batch, device=call.query.device)
        if sums["keys"].shape != (batch, n_keys):
            raise CannotDecode("ILVAD follows an answer token by token, with a growing cache and without beams")
        for name in ("keys", "next"):
            sums[name] = sums[name].to(call.query.device)
        return sums


def _highest(values: Tensor, n: int) -> Tensor:
    """Which of the heads have the `n` highest values, (batch, head, query) bool; of equal ones the first."""
    order = values.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(values, dtype=torch.bool).scatter(1, order[:, :n], True)
