"""The one registered attention function: fused attention, and what open blocks of `llava_hh.attention.hooks` do to it.

For the heads that an open block names it edits the output, records, or hands the call to an observer. Attribution lets
other functions answer instead. Open blocks are attributes of the attention modules, so autograd's recompute threads
and copies of a config see the right state; a module without any runs plain fused attention.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llava_hh.attention.call import AttentionCall
from llava_hh.attention.modules import attends_to_image_alone, attribute_set
from llava_hh.attention.spans import Spans, image_only_spans
from llava_hh.attention.trace import BLOCKS, Block

ATTENTION = "llava_hh"
Answer = Callable[[Tensor, Tensor, Tensor, float | None], Tensor]
_ANSWER = "llava_hh_answer"  # the attribute of an attention module with what answers instead of fused attention


@contextmanager
def answering(module: nn.Module, answer: Answer) -> Iterator[None]:
    """Let `answer` attend for an attention module while the context is open, under `switch_attention` to ATTENTION.

    Args:
        answer: from query, key, value (batch, head, position, d_head) and the scaling, None for d_head**-0.5, to the
            heads' outputs, (batch, query, head, d_head).
    Raises:
        ValueError: on leaving, if it was not asked and no other exception is on its way.
    """
    is_asked = False

    def noted(*given: Any) -> Tensor:
        nonlocal is_asked
        is_asked = True
        return answer(*given)

    with attribute_set(module, _ANSWER, noted):
        yield
    if not is_asked:
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
    if answer := module.__dict__.get(_ANSWER):
        return answer(query, key, value, scaling), None
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    blocks: list[Block] = module.__dict__.get(BLOCKS, [])
    if not blocks:
        return output, None
    if kwargs.get("position_bias") is not None:
        raise NotImplementedError("attention with a position bias can be neither edited nor recorded")
    layer, is_causal, window = module.layer_idx, kwargs.get("is_causal"), kwargs.get("sliding_window")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal  # as sdpa_attention_forward
    is_causal = bool(is_causal) and attention_mask is None and query.shape[2] > 1
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    call = AttentionCall(query, key, value, attention_mask, scaling, is_causal, output, layer=layer)
    for block in blocks:
        block.called.add(layer)
        if layer in block.mass:
            heads, spans = block.index(block.mass[layer], query.device), _find_spans(module, block, call, window)
            block.trace.mass[layer].append(call.mass(heads, spans))
        if layer in block.maps:
            maps = call.pattern(block.index(block.maps[layer], query.device))
            block.trace.maps[layer].append(maps)
        if layer in block.observed:
            block.observer(layer, block.index(block.observed[layer], query.device), call)
    edits = [(block, *numbered) for block in blocks for numbered in block.edits.get(layer, [])]
    if edits:
        call.output = output.clone()
    for block, number, edit, heads in sorted(edits, key=lambda numbered: numbered[2].order):
        spans = None
        if edit.needs_spans or block.spans.on_rows is not None:
            spans = _find_spans(module, block, call, window if edit.needs_spans else None)
        if edit.acts_on_answers:
            answers = block.answers(call)
            if answers.first == query.shape[2] and not edit.edits_prompt:
                continue
            spans = spans._replace(answers=answers)
        call.copies = 1 if block.spans is None else block.spans.copies(len(query))
        call.memory, call.hidden = block.memories.setdefault(number, {}), block.hidden.get(layer)
        decisions = edit.edit(call, block.index(heads, query.device), spans)
        if decisions is not None and answers.first < query.shape[2]:
            first = block.spans.first_predicting
            rows = answers.index[answers.first :] - first
            block.trace.keep(number, layer, heads, decisions, rows, key.shape[2] - first)
    for block in blocks:
        block.hidden.pop(layer, None)
    return call.output, None


def _find_spans(module: nn.Module, block: Block, call: AttentionCall, window: int | None) -> Spans:
    (batch, _, n_queries, _), n_keys, device = call.query.shape, call.key.shape[2], call.key.device
    if attends_to_image_alone(module):
        return image_only_spans(batch, n_keys, device).on(block.spans.rows(batch, device))
    if window is not None and n_queries < n_keys and n_keys >= window:
        why = f"layer {module.layer_idx} slides over {window} keys: which of them are cached is unknown"
        raise NotImplementedError(why)
    return block.spans.find(batch, n_keys, device)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
