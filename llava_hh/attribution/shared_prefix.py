"""Attention of many one-token rows that all read the keys and values of one prefix, without a copy of it per row."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHARED_PREFIX = "llava_hh_shared_prefix"
_STATE = "_llava_hh_shared_prefix"


@dataclass
class PrefixRows:
    """What one attention module needs to know while it runs a batch of one-token rows.

    A row is one token at one target position. Keys and values of the prefix are those of a single sample.
    """

    keys: Tensor  # key_head prefix d_head
    values: Tensor  # key_head prefix d_head
    visible: Tensor | None  # target prefix, bool: what each target's query may see; None: everything
    target_of_row: Tensor  # row, index of its target
    edit: Callable[[Tensor], None] | None = None  # changes the heads' outputs, (row, head, d_head), in place
    sees_itself: bool = True  # False in cross attention, whose keys are those of the image alone
    was_read: bool = False  # set by the attention function


@contextmanager
def sharing_prefix(attention: nn.Module, rows: PrefixRows) -> Iterator[None]:
    """Let `attention` answer for `rows` while the context is open.

    Raises:
        ValueError: the module computed its attention without asking the registered function.
    """
    setattr(attention, _STATE, rows)
    try:
        yield
    finally:
        delattr(attention, _STATE)
    if not rows.was_read:
        raise ValueError(
            f"{type(attention).__name__} does not attend through transformers' AttentionInterface; "
            "ablation needs an architecture that does (Llama, Mistral, Llava, Mllama, Chameleon, ...)"
        )


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """The registered attention function: plain fused attention, unless `sharing_prefix` is open on `module`.

    Args:
        query: (row, head, 1, d_head) while a prefix is shared, and `key`, `value` are the rows' own.
    Returns:
        The heads' outputs, (row, 1, head, d_head): the input of o_proj, split per head.
    """
    rows: PrefixRows | None = getattr(module, _STATE, None)
    if rows is None:
        kwargs["is_causal"] = getattr(module, "is_causal", False)
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    rows.was_read = True
    n_rows, n_heads, _, d_head = query.shape
    n_key_heads, n_prefix, _ = rows.keys.shape
    scaling = d_head**-0.5 if scaling is None else scaling

    # One product per key head, over the rows and the query heads that share this key head.
    grouped = query.view(n_rows, n_key_heads, -1, d_head).transpose(0, 1)  # key_head row group d_head
    stacked = grouped.reshape(n_key_heads, -1, d_head) * scaling
    scores = torch.bmm(stacked, rows.keys.transpose(1, 2)).float().view(n_key_heads, n_rows, -1, n_prefix)
    if rows.visible is not None:
        scores.masked_fill_(~rows.visible[rows.target_of_row][None, :, None], float("-inf"))
    if rows.sees_itself:
        own_key, own_value = key.transpose(0, 1), value.transpose(0, 1)  # key_head row 1 d_head
        own_score = (grouped.float() * own_key.float()).sum(-1, keepdim=True) * scaling
        scores = torch.cat([scores, own_score], dim=-1)
    pattern = scores.softmax(dim=-1).to(value.dtype)  # key_head row group prefix(+1)
    z = torch.bmm(pattern[..., :n_prefix].flatten(1, 2), rows.values).view(n_key_heads, n_rows, -1, value.shape[-1])
    if rows.sees_itself:
        z = z + pattern[..., n_prefix:] * own_value
    z = z.transpose(0, 1).reshape(n_rows, 1, n_heads, -1)  # row query head d_head

    if rows.edit is not None:
        rows.edit(z[:, 0])
    return z, None


AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)  # without it the causal mask is silently lost
