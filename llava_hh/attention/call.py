"""One layer's attention in one forward pass, as interventions and recordings see it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from llava_hh.attention.spans import Spans

# From scores of some heads before any edit, (batch, head, query, key) fp32, these heads, and the first query row that
# they are of: what is added to them before the softmax.
ScoreEdit = Callable[[Tensor, Tensor, int], Tensor]
# From the pattern of some heads, (batch, head, query, key) fp32, these heads, and the first query row that it is of:
# what takes its place.
PatternEdit = Callable[[Tensor, Tensor, int], Tensor]


@dataclass
class AttentionCall:
    """One layer's attention in one forward pass: what it was given, and its output as edited so far.

    `causal` is True only where there is no mask; query row i then sees keys 0..i. Methods take the query heads as an
    index tensor. With grouped queries, a key head serves n_heads // n_kv_heads of them. What methods recompute is
    without attention dropout. `memory` belongs to one edit: what it keeps between layers and forwards.
    """

    query: Tensor  # batch head query d_head
    key: Tensor  # batch kv_head key d_head
    value: Tensor  # batch kv_head key d_head
    mask: Tensor | None  # batch 1|head query key, bool (True is seen) or additive
    scaling: float
    causal: bool
    output: Tensor  # batch query head d_head; a copy that edits may write to
    gain: Tensor | None = None  # batch head key: factors of `ScaleAttention` on the pattern's columns
    score_edits: list[ScoreEdit] = field(default_factory=list)
    pattern_edits: list[PatternEdit] = field(default_factory=list)  # after the softmax and the gain, in this order
    layer: int = -1
    copies: int = 1  # of each row of the block's image_mask, such as beams
    hidden: Tensor | None = None  # batch query d_model: what enters the layer, for edits that read it
    memory: dict[Any, Any] = field(default_factory=dict)

    @property
    def first_index(self) -> int | Tensor:
        """The key that belongs to the first query row; a tensor where only the mask tells, as under a static cache."""
        n_queries, n_keys = self.query.shape[2], self.key.shape[2]
        if self.mask is None:
            return 0 if self.causal else n_keys - n_queries
        seen = self.seen_keys
        # rows of a batch share their columns
        return torch.where(seen, torch.arange(n_keys, device=seen.device), -1).amax() - (n_queries - 1)

    @property
    def columns(self) -> Tensor:
        """The key that is each query row's own, (query,): its column in the padded sequence."""
        return self.first_index + torch.arange(self.query.shape[2], device=self.query.device)

    @property
    def seen(self) -> Tensor:
        """Whether each query row sees its own key, (batch, query), which padding does not."""
        if self.mask is None:
            return self.query.new_ones(self.query.shape[0], self.query.shape[2], dtype=torch.bool)
        columns = self.columns[None, None, :, None].expand(len(self.mask), 1, -1, 1)
        own = self.mask[:, :1].gather(3, columns)[:, 0, :, 0]
        return own if own.dtype == torch.bool else own > torch.finfo(own.dtype).min / 2

    @property
    def seen_keys(self) -> Tensor:
        """Whether the last query row sees each key, (batch, key), which it does but for padding."""
        if self.mask is None:
            return self.key.new_ones(self.key.shape[0], self.key.shape[2], dtype=torch.bool)
        last_row = self.mask[:, 0, -1, : self.key.shape[2]]
        return last_row if last_row.dtype == torch.bool else last_row > torch.finfo(last_row.dtype).min / 2

    def scores(self, heads: Tensor, first_row: int = 0) -> Tensor:
        """Scaled scores before edits, mask and softmax in fp32, (batch, head, query, key), of rows `first_row` on."""
        keys = self.key[:, self._kv_heads(heads)].float()
        return self.query[:, heads, first_row:].float() @ keys.transpose(-1, -2) * self.scaling

    def pattern(self, heads: Tensor, first_row: int = 0) -> Tensor:
        """Attention after softmax in fp32, (batch, head, query, key), of query rows `first_row` and later.

        Edits of scores, gains and edits of patterns by earlier edits are in it. A row that sees no key at all (left
        padding) is all 0.
        """
        scores = self.scores(heads, first_row)
        if self.score_edits:
            scores = scores + sum(edit(scores, heads, first_row) for edit in self.score_edits)
        mask = self._mask(heads, first_row)
        if self.causal:
            rows = torch.arange(first_row, self.query.shape[2], device=scores.device)
            mask = torch.arange(scores.shape[-1], device=scores.device) <= rows[:, None]
        if mask is None:
            pattern = scores.softmax(-1)
        elif mask.dtype == torch.bool:
            pattern = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1) * mask
        else:
            pattern = (scores + mask.float()).softmax(-1)
        if self.gain is not None:
            pattern = pattern * self.gain[:, heads, None]
        for edit in self.pattern_edits:
            pattern = edit(pattern, heads, first_row)
        return pattern

    def mix(self, heads: Tensor, value: Tensor) -> Tensor:
        """Pattern times `value` (batch, head, key, d_head) by one fused call, (batch, head, query, d_head)."""
        query, key, mask = self.query[:, heads], self.key[:, self._kv_heads(heads)], self._mask(heads)
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(value.dtype)
        query, key = query.to(value.dtype), key.to(value.dtype)
        return scaled_dot_product_attention(query, key, value, mask, is_causal=self.causal, scale=self.scaling)

    def mass(self, heads: Tensor, spans: Spans) -> Tensor:
        """Attention mass on the image and on the keys after it, (batch, head, query, 2) fp32 fractions."""
        indicator = torch.stack((spans.image, spans.after_image), -1).float()[:, None]
        indicator = pad(indicator, (0, self.key.shape[-1] - 2))  # fused kernels want values as wide as keys
        return self.mix(heads, indicator.expand(-1, len(heads), -1, -1))[..., :2]

    def values(self, heads: Tensor) -> Tensor:
        """The values that each of `heads` reads, (batch, head, key, d_head)."""
        return self.value[:, self._kv_heads(heads)]

    def write(self, heads: Tensor, changed: Tensor, where: Tensor, first_row: int = 0) -> None:
        """Change the output of `heads` to `changed` where `where` is True; all else keeps every bit.

        Args:
            changed: (batch, head, query, d_head), of query rows `first_row` and later.
            where: bool that broadcasts to (batch, head, query).
        """
        kept = self.output[:, first_row:, heads]
        where = where.transpose(1, 2)[..., None]
        self.output[:, first_row:, heads] = torch.where(where, changed.transpose(1, 2).to(kept.dtype), kept)

    def attend_again(self, heads: Tensor, rows: Tensor, first_row: int = 0) -> None:
        """Write what `heads` give under the pattern of now to the query rows where `rows`, (batch, query), is True."""
        self.write(heads, self.pattern(heads, first_row) @ self.values(heads).float(), rows[:, None], first_row)

    def _kv_heads(self, heads: Tensor) -> Tensor:
        return heads // (self.query.shape[1] // self.key.shape[1])

    def _mask(self, heads: Tensor, first_row: int = 0) -> Tensor | None:
        if self.mask is None:
            return None
        mask = self.mask[:, :, first_row:, : self.key.shape[2]]
        return mask if mask.shape[1] == 1 else mask[:, heads]
