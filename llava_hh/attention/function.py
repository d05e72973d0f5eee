"""The one registered attention function: fused attention, and what open blocks of `llava_hh.attention.hooks` do to it.

For the heads that an open block names it edits the output, records, or hands the call to an observer. Attribution lets
other functions answer in its place. What is open hangs on the attention modules themselves, so autograd's recompute
threads and copies of a config see the right state; a module without any runs plain fused attention.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llava_hh.attention.call import AttentionCall
from llava_hh.attention.modules import attends_to_image_alone
from llava_hh.attention.spans import Spans, image_only_spans
from llava_hh.attention.state import BLOCKS, Block

ATTENTION = "llava_hh"
Answer = Callable[[Tensor, Tensor, Tensor, float | None], Tensor]
_ANSWER = "llava_hh_answer"  # the attribute of an attention module with what answers in place of fused attention


@contextmanager
def answering(module: nn.Module, answer: Answer) -> Iterator[None]:
    """Let `answer` attend for an attention module while the context is open, under `switch_attention` to ATTENTION.

    Args:
        answer: from query, key, value (batch, head, position, d_head) and the scaling, None for d_head**-0.5, to the
            heads' outputs, (batch, query, head, d_head).
    Raises:
        ValueError: on leaving, if it was not asked and no other exception is on its way.
    """
    asked: list[bool] = []
    module.__dict__[_ANSWER] = answer, asked
    try:
        yield
    finally:
        del module.__dict__[_ANSWER]
    if not asked:
        known = "Llama, Mistral, Llava, Mllama, Chameleon, ..."
        what = f"does not attend through transformers' AttentionInterface; ablation needs one that does ({known})"
        raise ValueError(f"{type(module).__name__} {what}")


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Fused attention, then the edits and recordings of the blocks that are open on `module`.

    Shapes: query (batch, head, query, d_head), key and value (batch, kv_head, key, d_head), mask (batch, 1, query,
    key) or None; returns (batch, query, head, d_head), and no maps.
    """
    if _ANSWER in module.__dict__:
        answer, asked = module.__dict__[_ANSWER]
        asked.append(True)
        return answer(query, key, value, scaling), None
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    blocks: list[Block] = module.__dict__.get(BLOCKS, [])
    if not blocks:
        return output, None
    if kwargs.get("position_bias") is not None:
        raise NotImplementedError("attention with a position bias can be neither edited nor recorded")
    layer = module.layer_idx
    is_causal = kwargs.get("is_causal")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal  # as sdpa_attention_forward
    call = AttentionCall(
        query=query,
        key=key,
        value=value,
        mask=attention_mask,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        causal=bool(is_causal) and attention_mask is None and query.shape[2] > 1,
        output=output,
    )
    for block in blocks:
        block.called.add(layer)
        if layer in block.mass:
            spans = _find_spans(module, block, call, kwargs.get("sliding_window"))
            block.trace.mass[layer].append(call.mass(block.index(block.mass[layer], query.device), spans))
        if layer in block.maps:
            block.trace.maps[layer].append(call.pattern(block.index(block.maps[layer], query.device)))
        if layer in block.observed:
            block.observer(layer, block.index(block.observed[layer], query.device), call)
    edits = [(block, *each) for block in blocks for each in block.edits.get(layer, [])]
    if edits:
        call.output = output.clone()
    for block, number, edit, heads in sorted(edits, key=lambda each: each[2].order):
        spans = None
        if edit.needs_spans or block.spans.is_of_some_rows:
            spans = _find_spans(module, block, call, kwargs.get("sliding_window") if edit.needs_spans else None)
        if edit.acts_on_answers:
            answers = block.answers(call)
            if answers.first == query.shape[2]:
                continue
            spans = spans._replace(answers=answers)
        decisions = edit.edit(call, block.index(heads, query.device), spans)
        if decisions is not None:
            first = block.spans.first_predicting
            rows = answers.index[answers.first :] - first
            block.trace.keep(number, layer, heads, decisions, rows, key.shape[2] - first)
    return call.output, None


def _find_spans(module: nn.Module, block: Block, call: AttentionCall, window: int | None) -> Spans:
    batch, _, n_queries, _ = call.query.shape
    n_keys = call.key.shape[2]
    if attends_to_image_alone(module):
        rows = block.spans.rows(batch, call.key.device)
        return image_only_spans(batch, n_keys, call.key.device).on(rows)
    if window is not None and n_queries < n_keys and n_keys >= window:
        raise NotImplementedError(
            f"layer {module.layer_idx} slides over {window} keys: which of them are cached is unknown"
        )
    return block.spans.find(batch, n_keys, call.key.device)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
