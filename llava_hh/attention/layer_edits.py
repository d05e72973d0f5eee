"""Edits of whole layers, methods of others: `AddConsensus` (Devils), `ScaleScores` (VAF), `SuppressBlindHeads` (SPIN).

Like `llava_hh.attention.interventions`: where several act on a head, what they add to its scores is computed from the
scores before any edit and adds up, so their order does not matter.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from llava_hh.attention.call import AttentionCall
from llava_hh.attention.interventions import Decisions, OnHeads, check_factor
from llava_hh.attention.spans import Spans


@dataclass(frozen=True)
class AddConsensus(OnHeads):
    """Raise the scores of answer rows on image keys by `alpha` times their mean absolute value over the layer's heads.

    Every head is drawn to the image tokens that the heads of its layer agree on. Answer rows as in `DeactivateText`.
    Rows without an image keep the fused output bit for bit, and so does everything with alpha 0.

    Args:
        heads: of each layer some or all; the mean is over all query heads of the layer in any case.
        alpha: a finite number of at least 0.
    Raises:
        ValueError: no heads, or an alpha that is not allowed.
    Source: Jiang et al., "Devils in Middle Layers of Large Vision-Language Models" (CVPR 2025), and its code, which
        raises layers 5 to 18 of 32, both included, with alpha 0.5.
    Differs: the code asserts a batch of one row, and half precision; ours is per row and fp32.
    """

    alpha: float
    acts_on_answers: ClassVar[bool] = True
    needs_image_keys: ClassVar[bool] = True
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factor("alpha", self.alpha)

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> None:
        if self.alpha == 0:
            return
        first, _, predict, _ = spans.answers
        every = torch.arange(call.query.shape[1], device=heads.device)
        consensus = self.alpha * call.scores(every, first).abs().mean(1)  # batch query key
        consensus = consensus * (spans.image[:, None] & predict[:, first:, None])
        chosen = torch.zeros_like(every, dtype=torch.bool)
        chosen[heads] = True

        def raised(scores: Tensor, of_heads: Tensor, first_row: int) -> Tensor:
            before = max(0, first - first_row)  # rows that no answer row is among
            rows = torch.nn.functional.pad(consensus[:, max(0, first_row - first) :], (0, 0, before, 0))
            return rows[:, None] * chosen[of_heads, None, None]

        call.score_edits.append(raised)
        in_row = spans.image.any(-1, keepdim=True) & predict[:, first:]
        call.attend_again(heads, in_row, first)


@dataclass(frozen=True)
class ScaleScores(OnHeads):
    """Multiply the scores on image keys by `image` and on keys before the image by `before`, in rows after the image.

    These rows are the rest of the prompt and the answer. Scores have a sign: a negative one on the image gets smaller.
    `signed=False` moves a score s to s + (factor - 1) |s| instead. Rows without an image keep the fused output.

    Args:
        heads: at least one.
        image, before: finite factors of at least 0; padding is before the image too, but masked.
    Raises:
        ValueError: no heads, or a factor that is not allowed.
    Source: Yin et al., "ClearSight: Visual Signal Enhancement for Object Hallucination Mitigation in Multimodal Large
        Language Models" (CVPR 2025), and its code (VAF): layers 9 to 14 of 32, 1.15 and 0.95, signed.
    Differs: the code takes constants (image from 35, 576 long), and one row at a time.
    """

    image: float = 1.15
    before: float = 0.95
    signed: bool = True
    acts_after_image: ClassVar[bool] = True
    needs_image_keys: ClassVar[bool] = True
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factor("image", self.image)
        check_factor("before", self.before)

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> None:
        if self.image == self.before == 1:
            return
        has_image = spans.image.any(-1, keepdim=True)
        earlier = has_image & ~spans.image & ~spans.after_image
        factor = (self.image - 1) * spans.image + (self.before - 1) * earlier  # batch key
        rows = spans.after_image[:, call.columns]  # batch query
        chosen = torch.zeros(call.query.shape[1], dtype=torch.bool, device=heads.device)
        chosen[heads] = True

        def scaled(scores: Tensor, of_heads: Tensor, first_row: int) -> Tensor:
            amount = scores if self.signed else scores.abs()
            where = rows[:, None, first_row:, None] & chosen[of_heads, None, None]
            return amount * factor[:, None, None] * where

        call.score_edits.append(scaled)
        call.attend_again(heads, rows)


@dataclass(frozen=True)
class SuppressBlindHeads(OnHeads):
    """In each answer row keep the share `kept` of a layer's heads that look at the image most; others times `factor`.

    How much a head looks is the sum of its scores on the image keys, before softmax, or with `rank_by="attention"` of
    its attention there. A decision is one head in one answer row; it fires where the head is suppressed. Kept heads are
    untouched, and so are rows without an image. Of equal heads the first are kept.

    Args:
        heads: of a layer all that are ranked; those are kept that are the first int(kept * their number).
        kept: from 0 to 1; 1 suppresses none.
        factor: of the outputs of suppressed heads, from 0 to 1.
    Raises:
        ValueError: no heads, or a number that is not allowed.
    Source: Sarkar et al., "Mitigating Hallucinations in Vision-Language Models through Image-Guided Head Suppression"
        (EMNLP 2025), and its code (SPIN), which ranks by scores: 0.95 and 0.08 in all layers for captions.
    Differs: the code masks the prefill's heads along the batch, which is wrong for several rows; ours is per row. It
        divides the sums by their deviation first, which keeps their order.
    """

    kept: float = 0.95
    factor: float = 0.08
    rank_by: Literal["scores", "attention"] = "scores"
    acts_on_answers: ClassVar[bool] = True
    needs_image_keys: ClassVar[bool] = True
    order: ClassVar[float] = 2.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kept", "factor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {getattr(self, name)}")
        if self.rank_by not in ("scores", "attention"):
            raise ValueError(f"rank_by must be 'scores' or 'attention', not {self.rank_by!r}")

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> Decisions:
        first, _, predict, _ = spans.answers
        looked = call.scores(heads, first) if self.rank_by == "scores" else call.pattern(heads, first)
        gaze = looked.masked_fill(~spans.image[:, None, None], 0).sum(-1)  # batch head query
        n_kept = int(self.kept * len(heads))
        order = gaze.argsort(dim=1, descending=True, stable=True)
        blind = torch.ones_like(gaze, dtype=torch.bool).scatter(1, order[:, :n_kept], False)
        decides = predict[:, first:] & spans.image.any(-1, keepdim=True)  # batch query
        fired = blind & decides[:, None] & (self.factor != 1)
        if self.factor != 1:
            current = call.output[:, first:, heads].transpose(1, 2)  # batch head query d_head
            call.write(heads, current * self.factor, fired, first)
        return Decisions(fired, decides)
