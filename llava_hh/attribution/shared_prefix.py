"""Attention of many one-token rows that all read the keys and values of one prefix, without a copy of it per row."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class PrefixRows:
    """A batch of one-token rows of an attention module; called, it answers for the module (`attending.answering`).

    A row is one token at one target position. Keys and values of the prefix are those of a single sample.
    """

    keys: Tensor  # key_head prefix d_head
    values: Tensor  # key_head prefix d_head
    visible: Tensor | None  # target prefix, bool: what each target's query may see; None: everything
    target_of_row: Tensor  # row, index of its target
    edit: Callable[[Tensor], None] | None = None  # changes the heads' outputs, (row, head, d_head), in place
    sees_itself: bool = True  # False in cross attention, whose keys are those of the image alone

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """The heads' outputs, (row, 1, head, d_head), of (row, head, 1, d_head); key and value are the rows' own."""
        n_rows, n_heads, _, d_head = query.shape
        n_key_heads, n_prefix, _ = self.keys.shape
        scaling = d_head**-0.5 if scaling is None else scaling

        # One product per key head, over the rows and the query heads that share this key head.
        grouped = query.view(n_rows, n_key_heads, -1, d_head).transpose(0, 1)  # key_head row group d_head
        stacked = grouped.reshape(n_key_heads, -1, d_head) * scaling
        scores = torch.bmm(stacked, self.keys.transpose(1, 2)).float().view(n_key_heads, n_rows, -1, n_prefix)
        if self.visible is not None:
            scores.masked_fill_(~self.visible[self.target_of_row][None, :, None], float("-inf"))
        if self.sees_itself:
            own_key, own_value = key.transpose(0, 1), value.transpose(0, 1)  # key_head row 1 d_head
            own_score = (grouped.float() * own_key.float()).sum(-1, keepdim=True) * scaling
            scores = torch.cat([scores, own_score], dim=-1)
        pattern = scores.softmax(dim=-1).to(value.dtype)  # key_head row group prefix(+1)
        z = torch.bmm(pattern[..., :n_prefix].flatten(1, 2), self.values).view(n_key_heads, n_rows, -1, value.shape[-1])
        if self.sees_itself:
            z = z + pattern[..., n_prefix:] * own_value
        z = z.transpose(0, 1).reshape(n_rows, 1, n_heads, -1)  # row query head d_head

        if self.edit is not None:
            self.edit(z[:, 0])
        return z
