"""What can be done to a head: `ZeroHeads`, `DeactivateText` (the paper's AD-HH), `ScaleAttention`, `BoostImageScores`.

Each is a frozen description with a tensor rule, `edit`, which rewrites the output of its heads in one layer. Where
several name the same head, the result doesn't depend on their order: boosts add up before the softmax, scales multiply
after it, `DeactivateText` then measures the pattern that results, and `ZeroHeads` has the last word.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.functional import scaled_dot_product_attention as sdpa

from llava_hh.heads import Head
from llava_hh.spans import Spans


@dataclass
class AttentionCall:
    """One layer's attention in one forward pass: what it was given, and its output as edited so far.

    With `causal`, which stands only where there is no mask, query row i sees keys 0..i. Methods take the query heads
    as an index tensor; with grouped queries, a key head serves n_heads // n_kv_heads of them. What they recompute
    is without attention dropout.
    """

    query: Tensor  # batch head query d_head
    key: Tensor  # batch kv_head key d_head
    value: Tensor  # batch kv_head key d_head
    mask: Tensor | None  # batch 1|head query key, bool (True is seen) or additive
    scaling: float
    causal: bool
    output: Tensor  # batch query head d_head; a copy that edits may write to
    gain: Tensor | None = None  # batch head key: factors of `ScaleAttention` on the pattern's columns
    boost: Tensor | None = None  # batch head key: alphas of `BoostImageScores`, for the last query row

    def pattern(self, heads: Tensor, first_row: int = 0) -> Tensor:
        """Attention after softmax in fp32, (batch, head, query, key), of query rows `first_row` and later.

        A row that sees no key at all (left padding) is all 0. A boost is in it, a gain is not.
        """
        rows = self.query[:, heads, first_row:].float()
        keys = self.key[:, self._kv_heads(heads)].float()
        scores = rows @ keys.transpose(-1, -2) * self.scaling
        if self.boost is not None:
            last = scores[:, :, -1:]
            scores = torch.cat((scores[:, :, :-1], last + self.boost[:, heads, None] * last.abs()), 2)
        seen = None
        mask = self._mask(heads, first_row)
        if self.causal:
            own = torch.arange(first_row, self.query.shape[2], device=scores.device)
            seen = torch.arange(scores.shape[-1], device=scores.device) <= own[:, None]
        elif mask is not None and mask.dtype == torch.bool:
            seen = mask
        elif mask is not None:
            scores = scores + mask.float()
        if seen is None:
            return scores.softmax(-1)
        return scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1) * seen

    def mix(self, heads: Tensor, value: Tensor) -> Tensor:
        """Pattern times `value` (batch, head, key, d_head) by one fused call, (batch, head, query, d_head)."""
        query, key, mask = self.query[:, heads], self.key[:, self._kv_heads(heads)], self._mask(heads)
        if value.dtype != query.dtype:
            query, key = query.to(value.dtype), key.to(value.dtype)
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(value.dtype)
        return sdpa(query, key, value, attn_mask=mask, is_causal=self.causal, scale=self.scaling)

    def mass(self, heads: Tensor, spans: Spans) -> Tensor:
        """Attention mass on the image and on the keys after it, (batch, head, query, 2) fp32 fractions."""
        indicator = torch.stack((spans.image, spans.after_image), -1).float()[:, None]
        indicator = pad(indicator, (0, self.key.shape[-1] - 2))  # fused kernels want values as wide as keys
        return self.mix(heads, indicator.expand(-1, len(heads), -1, -1))[..., :2]

    def values(self, heads: Tensor) -> Tensor:
        """The values that each of `heads` reads, (batch, head, key, d_head)."""
        return self.value[:, self._kv_heads(heads)]

    def _kv_heads(self, heads: Tensor) -> Tensor:
        return heads // (self.query.shape[1] // self.key.shape[1])

    def _mask(self, heads: Tensor, first_row: int = 0) -> Tensor | None:
        if self.mask is None:
            return None
        mask = self.mask[:, :, first_row:, : self.key.shape[2]]
        return mask if mask.shape[1] == 1 else mask[:, heads]


class Decisions(NamedTuple):
    """How often `DeactivateText` fired, out of how many decisions; as tensors, one number per head."""

    fired: int | Tensor
    decided: int | Tensor


@dataclass(frozen=True)
class ZeroHeads:
    """Zero the output of `heads` (their slice of the o_proj input) at every query position of every forward.

    Args:
        heads: at least one; kept as a tuple.

    Raises:
        ValueError: no heads.

    Source: the paper's knock-out of a head (attribution), and its pruning of newer models.
    """

    heads: tuple[Head, ...]
    order: ClassVar[int] = 3  # among interventions of one layer, lowest first
    acts_after_image: ClassVar[bool] = False  # what cross-attention to an image has no keys for

    def __post_init__(self) -> None:
        _keep_heads(self)

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans | None) -> None:
        call.output[:, :, heads] = 0


@dataclass(frozen=True)
class DeactivateText:
    """AD-HH: where a head puts a mass of at least `threshold` on the keys after the image, zero that attention.

    The mass m is the sum of the head's attention after softmax over the after-image keys, the query's own key among
    them. Every row of the batch and every head decides for itself. What is left (system prompt, image) keeps its
    weight: there is no renormalisation. The softmax is fp32. Heads that don't fire keep the fused output bit for bit,
    and so do rows without an after-image key, for which there is nothing to decide.

    `rows="last"`, the paper's: only the last query row of each forward decides, in prefill and in each cached step.
    Batches must be padded on the left, else a short row's last query is padding.

    `rows="response"` is for scoring a given text: in one uncached pass every query row from response_start - 1 on
    decides (that row predicts the answer's first token). Exactly: row q sees the keys up to q, so given the same keys
    and values, it equals the last row of the forward whose last query is q. The keys and values are the same as well,
    for rows before response_start - 1 stay as prefill leaves them and later ones depend on rows up to their own
    alone, layer by layer. So the pass equals a prefill of the first response_start positions followed by one cached
    step per answer token, up to the rounding of fused kernels (a mass that close to `threshold` may fall to either
    side). Rows of padding after a short answer decide too, and are counted. A cache that the forward is given must
    grow by concatenation; a static cache hides which key a query is.

    Args:
        heads: at least one; kept as a tuple.
        threshold: a fraction in [0, 1]; 0 always fires.
        rows: "last" or "response".

    Raises:
        ValueError: no heads, or a threshold or rows that are not allowed.

    Source: the paper's adaptive deactivation at decoding.
    Differs: the released code sums m over the batch, so one decision falls on all its rows and beams; ours is per
        row. It compares m in half precision; ours is fp32. It needs eager attention; ours stays fused.
    """

    heads: tuple[Head, ...]
    threshold: float = 0.4
    rows: Literal["last", "response"] = "last"
    order: ClassVar[int] = 2
    acts_after_image: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _keep_heads(self)
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], not {self.threshold}")
        if self.rows not in ("last", "response"):
            raise ValueError(f"rows must be 'last' or 'response', not {self.rows!r}")

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> Decisions:
        n_queries, n_keys = call.query.shape[2], call.key.shape[2]
        # without a mask, queries count from key 0 even where a static cache is longer than they are
        offset = 0 if call.causal else n_keys - n_queries
        first = n_queries - 1 if self.rows == "last" else min(max(0, spans.first_predicting - offset), n_queries)
        # cross-attention can have more queries than keys; it has nothing after the image anyway
        own_keys = torch.arange(offset + first, offset + n_queries, device=call.query.device).clamp(min=0)
        decides = spans.after_image[:, own_keys]  # batch query; a row before the image's end has nothing to decide
        if self.rows == "response":
            decides = decides & spans.predicting[:, own_keys]
        decides = decides[:, None, :, None]
        span = spans.after_image[:, None, None]  # batch 1 1 key
        pattern = call.pattern(heads, first)
        if call.gain is not None:
            pattern = pattern * call.gain[:, heads, None]
        mass = pattern.masked_fill(~span, 0).sum(-1, keepdim=True)
        fired = (mass >= self.threshold) & decides
        deactivated = pattern.masked_fill(span, 0) @ call.values(heads).float()
        kept = call.output[:, first:, heads].transpose(1, 2)
        edited = torch.where(fired, deactivated.to(kept.dtype), kept)
        call.output[:, first:, heads] = edited.transpose(1, 2)
        return Decisions(fired.sum((0, 2, 3)), decides.expand_as(fired).sum((0, 2, 3)))


@dataclass(frozen=True)
class ScaleAttention:
    """Multiply the attention of `heads` on a span by `alpha`, for every query row, without renormalisation.

    Scaling columns of the pattern is scaling rows of V, so this is one more fused call on the chosen heads. Batch
    rows in which the span is empty, or alpha is 1, keep the fused output bit for bit.

    Args:
        heads: at least one; kept as a tuple.
        alpha: a factor of at least 0, or one for each row of the image_mask that the block is opened with.
        span: "after_image" (alpha below 1 in the paper) or "image" (above 1).

    Raises:
        ValueError: no heads, or an alpha or a span that is not allowed.

    Source: the paper's re-weighting of attention (figure 6).
    """

    heads: tuple[Head, ...]
    alpha: float | tuple[float, ...]
    span: Literal["after_image", "image"] = "after_image"
    order: ClassVar[int] = 0

    def __post_init__(self) -> None:
        _keep_heads(self)
        for alpha in self.alpha if isinstance(self.alpha, tuple) else (self.alpha,):
            if not 0 <= alpha < float("inf"):
                raise ValueError(f"alpha must be a finite number of at least 0, not {alpha}")
        if self.span not in ("after_image", "image"):
            raise ValueError(f"span must be 'after_image' or 'image', not {self.span!r}")

    @property
    def acts_after_image(self) -> bool:
        return self.span == "after_image"

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> None:
        if self.alpha == 1:
            return
        span = getattr(spans, self.span)  # batch key
        batch, n_heads = call.query.shape[:2]
        alpha = torch.tensor(self.alpha, device=span.device).view(-1, 1)
        alpha = alpha.repeat_interleave(batch // len(alpha), 0)  # batch 1; the copies of a row (beams) stand together
        if call.gain is None:
            call.gain = torch.ones(batch, n_heads, call.key.shape[2], device=span.device)
        call.gain[:, heads] *= torch.where(span, alpha, 1.0)[:, None]
        value = call.values(heads)
        scaled = call.mix(heads, value * call.gain[:, heads, :, None].to(value.dtype)).transpose(1, 2)
        in_row = (span.any(-1) & (alpha[:, 0] != 1))[:, None, None, None]
        call.output[:, :, heads] = torch.where(in_row, scaled, call.output[:, :, heads])


@dataclass(frozen=True)
class BoostImageScores:
    """Raise the scores s (before softmax) of the last query row on image keys to s + alpha |s|, in `heads`.

    Only the last query row of each forward is edited, in prefill and in each cached step; its softmax is fp32. So
    batches must be padded on the left. Where several name a head, their alphas add up. Batch rows without an image
    keep the fused output bit for bit, and so does everything with alpha 0.

    Args:
        heads: at least one; kept as a tuple.
        alpha: a number of at least 0.

    Raises:
        ValueError: no heads, or an alpha that is not allowed.

    Source: PAI's amplification of attention to the image (`baselines.pai`).
    """

    heads: tuple[Head, ...]
    alpha: float
    acts_after_image: ClassVar[bool] = False
    order: ClassVar[int] = 1  # `ScaleAttention` recomputes all rows without a boost, so it comes before

    def __post_init__(self) -> None:
        _keep_heads(self)
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"alpha must be a finite number of at least 0, not {self.alpha}")

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> None:
        if self.alpha == 0:
            return
        batch, n_heads, n_queries = call.query.shape[:3]
        if call.boost is None:
            call.boost = torch.zeros(batch, n_heads, call.key.shape[2], device=call.query.device)
        call.boost[:, heads] += self.alpha * spans.image[:, None]
        pattern = call.pattern(heads, n_queries - 1)
        if call.gain is not None:
            pattern = pattern * call.gain[:, heads, None]
        boosted = (pattern @ call.values(heads).float()).transpose(1, 2)
        kept = call.output[:, -1:, heads]
        in_row = spans.image.any(-1)[:, None, None, None]
        call.output[:, -1:, heads] = torch.where(in_row, boosted.to(kept.dtype), kept)


Intervention = ZeroHeads | DeactivateText | ScaleAttention | BoostImageScores


def _keep_heads(intervention: Intervention) -> None:
    heads: Iterable[tuple[int, int]] = intervention.heads
    heads = tuple(Head(int(layer), int(head)) for layer, head in heads)
    if not heads:
        raise ValueError(f"{type(intervention).__name__} needs at least one head")
    object.__setattr__(intervention, "heads", heads)  # the dataclass is frozen
