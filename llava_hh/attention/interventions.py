"""What can be done to a head.

`ZeroHeads`, `DeactivateText` (the paper's AD-HH), `ScaleAttention`, `BoostImageScores`, `ScaleHeads`.

Each is a frozen description with a tensor rule, `edit`, which rewrites the output of its heads in one layer. Where
several name the same head, the result doesn't depend on their order: boosts add up before the softmax, scales multiply
after it, `DeactivateText` then measures the pattern that results, outputs are scaled, and `ZeroHeads` has the last
word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from llava_hh.attention.call import AttentionCall
from llava_hh.attention.spans import Spans
from llava_hh.heads import Head


class Decisions(NamedTuple):
    """How often `DeactivateText` fired, out of how many decisions.

    Of one forward, bool tensors: fired (batch, head, query) and decided (batch, query), of its answer rows.
    """

    fired: int | Tensor
    decided: int | Tensor


@dataclass(frozen=True)
class OnHeads:
    """What interventions share. A layer's edits are made in ascending `order`."""

    heads: tuple[Head, ...]
    order: ClassVar[int]
    acts_after_image: ClassVar[bool] = False  # what cross-attention to an image has no keys for
    acts_on_answers: ClassVar[bool] = False  # on answer rows alone, which cross-attention's keys don't tell
    needs_image_keys: ClassVar[bool] = False  # which a model that reads its image by cross-attention lacks
    needs_spans: ClassVar[bool] = True  # such an edit cannot act where a cache may have dropped keys
    reads_hidden: ClassVar[bool] = False  # what enters the layer
    passes_first: ClassVar[bool] = False  # over each batch, see `prepared`
    edits_prompt: ClassVar[bool] = False  # beside answer rows, so a forward without these counts too

    def __post_init__(self) -> None:
        heads = tuple(Head(int(layer), int(head)) for layer, head in self.heads)
        if not heads:
            raise ValueError(f"{type(self).__name__} needs at least one head")
        object.__setattr__(self, "heads", heads)  # the dataclass is frozen

    def check(self, n_rows: int) -> None:
        """Check that the intervention fits an image_mask of `n_rows` rows.

        Raises:
            ValueError: it does not.
        """

    def prepared(self, lvlm: Any, batch: Any) -> Intervention:
        """What acts on this batch: itself, unless the edit depends on passes over the batch that come first.

        Args:
            lvlm, batch: a `models.lvlm.Lvlm` and what its `encode` gives.
        """
        return self


@dataclass(frozen=True)
class ZeroHeads(OnHeads):
    """Zero the output of `heads` (their slice of the o_proj input) at every query position of every forward.

    It acts on batches of any number of rows, unless its block is for some rows alone.
    Raises:
        ValueError: no heads.
    Source: the paper's knock-out of a head (attribution), and its pruning of newer models.
    """

    order: ClassVar[int] = 3
    needs_spans: ClassVar[bool] = False

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans | None) -> None:
        if spans is None or spans.rows is None:
            call.output[:, :, heads] = 0
        else:
            call.output[:, :, heads] = call.output[:, :, heads].masked_fill(spans.rows[:, None, None, None], 0)


@dataclass(frozen=True)
class DeactivateText(OnHeads):
    """AD-HH: where a head puts a mass of at least `threshold` on the keys after the image, zero that attention.

    The mass m is the sum of the head's attention after softmax over the after-image keys, the query's own key among
    them. Every row of the batch and every head decides for itself. What is left (system prompt, image) keeps its
    weight: there is no renormalisation. The softmax is fp32. Heads that don't fire keep the fused output bit for bit.
    So do rows without an after-image key, for which there is nothing to decide.

    The query rows that predict an answer token decide: the last of the prompt, and each of the answer. Row q sees the
    keys up to q, and no key or value depends on later positions. So every way to run the model (cached steps, one pass
    over a given answer) decides alike, up to the rounding of fused kernels. A mass that close to `threshold` may fall
    to either side. Batches must be padded on the left, else a short row's first decision is made at padding. Rows of
    padding after a short answer decide too, and are counted.

    Args:
        heads: at least one; stored as a tuple.
        threshold: a fraction in [0, 1]; 0 always fires.
    Raises:
        ValueError: no heads, or a threshold that is not allowed.
    Source: the paper's adaptive deactivation at decoding.
    Differs: the released code sums m over the batch, so one decision falls on all its rows and beams; ours is per
        row. It compares m in half precision; ours is fp32. It needs eager attention; ours stays fused. It edits the
        last row of each forward, so its tokens change without a cache; ours follow the row's position.
    """

    threshold: float = 0.4
    order: ClassVar[int] = 2
    acts_after_image: ClassVar[bool] = True
    acts_on_answers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], not {self.threshold}")

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> Decisions:
        first, index, predict, _ = spans.answers
        # a batch row without an image, or the last row of a prompt that ends with one, has nothing to decide
        decides = predict[:, first:] & spans.after_image[:, index[first:].clamp(min=0)]  # batch query
        span = spans.after_image[:, None, None]  # batch 1 1 key
        pattern = call.pattern(heads, first)
        fired = (pattern.masked_fill(~span, 0).sum(-1) >= self.threshold) & decides[:, None]
        call.write(heads, pattern.masked_fill(span, 0) @ call.values(heads).float(), fired, first)
        return Decisions(fired, decides)


@dataclass(frozen=True)
class ScaleAttention(OnHeads):
    """Multiply the attention of `heads` on a span by `alpha`, for every query row, without renormalisation.

    Scaling columns of the pattern is scaling rows of V, so this is one more fused call on the chosen heads. Batch
    rows in which the span is empty, or alpha is 1, keep the fused output bit for bit.

    Args:
        heads: at least one; stored as a tuple.
        alpha: a factor of at least 0, or one for each row of the image_mask that the block is opened with.
        span: "after_image" (alpha below 1 in the paper) or "image" (above 1).
    Raises:
        ValueError: no heads, or an alpha or a span that is not allowed.
    Source: the paper's re-weighting of attention (figure 6).
    """

    alpha: float | tuple[float, ...]
    span: Literal["after_image", "image"] = "after_image"
    order: ClassVar[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for alpha in self.alpha if isinstance(self.alpha, tuple) else (self.alpha,):
            check_factor("alpha", alpha)
        if self.span not in ("after_image", "image"):
            raise ValueError(f"span must be 'after_image' or 'image', not {self.span!r}")

    @property
    def acts_after_image(self) -> bool:
        return self.span == "after_image"

    def check(self, n_rows: int) -> None:
        """Check that `alpha`, where it has a factor for each row, has `n_rows` of them.

        Raises:
            ValueError: another number of factors.
        """
        if isinstance(self.alpha, tuple) and len(self.alpha) != n_rows:
            raise ValueError(f"ScaleAttention has {len(self.alpha)} alphas for the {n_rows} rows of image_mask")

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
        scaled = call.mix(heads, value * call.gain[:, heads, :, None].to(value.dtype))
        call.write(heads, scaled, (span.any(-1) & (alpha[:, 0] != 1))[:, None, None])


@dataclass(frozen=True)
class BoostImageScores(OnHeads):
    """Raise the scores s (before softmax) of answer rows on image keys to s + alpha |s|, in `heads`.

    Answer rows are the query rows that predict an answer token, as in `DeactivateText`; their softmax is fp32. So
    batches must be padded on the left. Where several name a head, their alphas add up. Batch rows without an image
    keep the fused output bit for bit, and so does everything with alpha 0.

    Args:
        heads: at least one; stored as a tuple.
        alpha: a number of at least 0.
    Raises:
        ValueError: no heads, or an alpha that is not allowed.
    Source: PAI's amplification of attention to the image (`llava_hh.baselines.pai`).
    """

    alpha: float
    acts_on_answers: ClassVar[bool] = True
    order: ClassVar[int] = 1  # `ScaleAttention` recomputes all rows without a boost, so it comes before

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factor("alpha", self.alpha)

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> None:
        if self.alpha == 0:
            return
        batch, n_heads = call.query.shape[:2]
        alpha = torch.zeros(batch, n_heads, call.key.shape[2], device=call.query.device)
        alpha[:, heads] = self.alpha * spans.image[:, None].to(alpha.dtype)
        first, _, predict, _ = spans.answers

        def raised(scores: Tensor, of_heads: Tensor, first_row: int) -> Tensor:
            return alpha[:, of_heads, None] * predict[:, None, first_row:, None] * scores.abs()

        call.score_edits.append(raised)
        in_row = spans.image.any(-1, keepdim=True) & predict[:, first:]  # batch query
        call.attend_again(heads, in_row, first)


@dataclass(frozen=True)
class ScaleHeads(OnHeads):
    """Multiply the outputs of `heads` by a factor each, at every query position of every forward; 0 is `ZeroHeads`.

    Args:
        heads: different ones.
        factors: one for each head, or for each row of image_mask a tuple of these.
    Raises:
        ValueError: no heads, or another number of factors than of heads.
    Source: AllPath and VHR (`llava_hh.baselines`).
    """

    factors: tuple[float, ...] | tuple[tuple[float, ...], ...]
    order: ClassVar[float] = 2.6
    needs_spans: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for factors in self._by_row:
            if len(factors) != len(self.heads) or len({*self.heads}) != len(self.heads):
                raise ValueError(f"ScaleHeads has {len(factors)} factors for {len({*self.heads})} different heads")
            for factor in factors:
                check_factor("factor", factor)

    @property
    def _by_row(self) -> tuple[tuple[float, ...], ...]:
        return self.factors if self.factors and isinstance(self.factors[0], tuple) else (self.factors,)

    def check(self, n_rows: int) -> None:
        """Check that factors for each row are for `n_rows`, or that each of theirs stands there equally often.

        Raises:
            ValueError: another number.
        """
        if n_rows % len(self._by_row):
            raise ValueError(f"ScaleHeads has factors for {len(self._by_row)} rows, image_mask has {n_rows}")

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans | None) -> None:
        if "factors" not in call.memory:
            call.memory["factors"] = torch.tensor(self._by_row, dtype=call.output.dtype, device=call.output.device)
            call.memory["columns"] = {head: column for column, head in enumerate(self.heads)}
        columns = [call.memory["columns"][call.layer, head] for head in heads.tolist()]
        factors = call.memory["factors"][:, columns].to(call.output.device)
        factors = factors.repeat_interleave(len(call.output) // len(factors), 0)  # copies of a row stand together
        if spans is not None and spans.rows is not None:
            factors = factors.masked_fill(~spans.rows[:, None], 1)
        call.output[:, :, heads] *= factors[:, None, :, None]


def check_factor(name: str, value: float) -> None:
    """Raise ValueError unless a field's value is a finite number of at least 0."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a finite number of at least 0, not {value}")


Intervention = ZeroHeads | DeactivateText | ScaleAttention | BoostImageScores | ScaleHeads
