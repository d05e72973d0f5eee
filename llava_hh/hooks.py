"""Where interventions and recordings meet a model: one registered attention function, and context managers.

The function is fused attention; for the heads that an open block names, it then edits the output, records, or hands
the call to an observer. Attribution lets other functions answer in its place. What is open hangs on the attention
modules themselves, so autograd's recompute threads and copies of a config see the right state, and a module without
an open block runs plain fused attention.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llava_hh.attention import attends_to_image_alone, attention_modules, switch_attention
from llava_hh.attention_call import AttentionCall
from llava_hh.heads import Head, by_layer, check_heads
from llava_hh.interventions import Intervention
from llava_hh.spans import AnswerRows, SpanFinder, Spans, image_only_spans
from llava_hh.trace import Trace, watch_generate

ATTENTION = "llava_hh"
Observer = Callable[[int, Tensor, AttentionCall], None]
Answer = Callable[[Tensor, Tensor, Tensor, float | None], Tensor]
_BLOCKS = "llava_hh_blocks"  # the attribute of an attention module that lists the open blocks, outer first
_ANSWER = "llava_hh_answer"  # that of what answers in place of fused attention


class _Block:
    """The state of one open block: which heads, where the image is (where that is asked), and what was seen."""

    def __init__(self, spans: SpanFinder | None) -> None:
        self.spans, self.trace = spans, Trace()
        self.edits: dict[int, list[tuple[int, Intervention, list[int]]]] = {}  # by layer; edits are numbered
        self.mass: dict[int, list[int]] = {}
        self.maps: dict[int, list[int]] = {}
        self.observed: dict[int, list[int]] = {}
        self.observer: Observer | None = None
        self.called: set[int] = set()
        self._indices: dict[tuple[torch.device, tuple[int, ...]], Tensor] = {}
        self._answers: tuple[Tensor | None, tuple, AnswerRows] | None = None

    @property
    def layers(self) -> set[int]:
        return {*self.edits, *self.mass, *self.maps, *self.observed}

    def index(self, heads: list[int], device: torch.device) -> Tensor:
        """The heads as an index tensor that is copied to the device once, not once per layer and step."""
        key = (device, tuple(heads))
        if key not in self._indices:
            self._indices[key] = torch.tensor(heads, device=device)
        return self._indices[key]

    def answers(self, call: AttentionCall) -> AnswerRows:
        """The answer rows of a forward; its layers share a mask, so they are found once."""
        size = (call.query.device, len(call.query), call.query.shape[2], call.key.shape[2])
        if self._answers is None or self._answers[0] is not call.mask or self._answers[1] != size:
            rows = self.spans.find_answers(*size[1:], call.first_index, size[0])
            self._answers = call.mask, size, rows
        return self._answers[2]


@contextmanager
def intervene(
    model: PreTrainedModel,
    image_mask: Tensor,
    interventions: Sequence[Intervention],
    response_start: Sequence[int] | Tensor | None = None,
    on_rows: Sequence[bool] | Tensor | None = None,
) -> Iterator[Trace]:
    """Apply `interventions` to every forward pass of `model`, and so to `model.generate`, while the block is open.

    Blocks add up: an inner one applies on top of the outer. The block's own forwards run fused (sdpa) attention,
    whatever the model was set to; leaving restores that, also by an exception. No attention maps are returned under
    `output_attentions`; use `record`.

    Args:
        image_mask: (batch, prompt position) bool; a forward may have each row several times in a row (beams). What
            lies behind it is the answer, so a second turn of a conversation needs a block of its own.
        response_start: the answer's first position in each row, where image_mask covers some of the answer.
        on_rows: whether each row of image_mask is edited, such as one of two twins; the other rows keep every bit and
            take no decisions. None is all rows.

    Raises:
        IndexError: a head that the model does not have.
        ValueError: a bad image_mask, response_start or on_rows; a model whose attention cannot be replaced; in a layer
            that attends to the image alone (Mllama's cross-attention), an edit of what comes after the image or of
            answer rows; in `generate`, a prompt of another length than image_mask.
        RuntimeError: on leaving, if a layer of one of the heads was never called and no other exception is on its way.
        NotImplementedError: in a forward whose sliding-window cache may have dropped keys, so that spans are unknown.
    """
    block = _Block(SpanFinder(image_mask, response_start, on_rows))
    for number, intervention in enumerate(interventions):
        intervention.check(len(image_mask))
        for layer, heads in by_layer(intervention.heads).items():
            block.edits.setdefault(layer, []).append((number, intervention, heads))
    with _open(model, block, [head for each in interventions for head in each.heads]):
        on_answers = any(each.acts_on_answers for each in interventions)
        with watch_generate(model, block.spans, block.trace) if on_answers else nullcontext():
            yield block.trace


@contextmanager
def record(
    model: PreTrainedModel,
    image_mask: Tensor,
    mass: Iterable[tuple[int, int]] | None = None,
    maps: Iterable[tuple[int, int]] | None = None,
) -> Iterator[Trace]:
    """Record the attention of chosen heads in every forward pass while the block is open; it changes no output.

    Inside `intervene`, a head's own edit doesn't show: recorded is the softmax of its queries and keys, as the layer
    computes it before an edit. Edits of earlier layers do show, in those queries and keys. What is recorded carries
    gradients unless the forward runs without; gradient checkpointing records its recomputation as one more forward.

    Args:
        image_mask: (batch, prompt position) bool; a forward may have each row several times in a row (beams).
        mass: heads whose mass on the image and after it is kept; no map is built for these.
        maps: heads whose maps are kept.

    Raises:
        IndexError, ValueError, RuntimeError, NotImplementedError: as `intervene`.
    """
    block = _Block(SpanFinder(image_mask))
    mass, maps = list(mass or ()), list(maps or ())
    block.mass, block.maps = by_layer(mass), by_layer(maps)
    block.trace.mass = {layer: [] for layer in block.mass}
    block.trace.maps = {layer: [] for layer in block.maps}
    with _open(model, block, mass + maps):
        yield block.trace


@contextmanager
def observe(model: PreTrainedModel, heads: Iterable[tuple[int, int]], observer: Observer) -> Iterator[None]:
    """Call `observer(layer, heads, call)` in every forward of the layers of `heads`; it changes no output.

    The heads of the layer come as an index tensor, ascending, with what the attention was given, from which the
    observer takes the rows that it needs. What it computes carries gradients unless the forward runs without. Under
    gradient checkpointing the recomputation calls it once more, and must find it computing the same: so leave the
    block only after backward, and keep what the observer goes by until then.

    Raises:
        IndexError, ValueError, RuntimeError: as `intervene`.
    """
    block = _Block(None)
    heads = list(heads)
    block.observed, block.observer = by_layer(heads), observer
    with _open(model, block, heads):
        yield


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


def is_edited(model: PreTrainedModel) -> bool:
    """Whether a block of `intervene` with something to edit is open on the model."""
    blocks = (block for module in attention_modules(model).values() for block in module.__dict__.get(_BLOCKS, ()))
    return any(block.edits for block in blocks)


@contextmanager
def _open(model: PreTrainedModel, block: _Block, heads: Sequence[tuple[int, int]]) -> Iterator[None]:
    modules = attention_modules(model)
    text_config = next(iter(modules.values())).config
    check_heads(heads, len(modules), text_config.num_attention_heads)
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and part.config is text_config and not part._supports_sdpa:
            raise ValueError(
                f"{type(part).__name__} does not support fused (sdpa) attention, which heads are edited in"
            )
    for layer, edits in block.edits.items():
        for _, edit, chosen in edits:
            if (edit.acts_after_image or edit.acts_on_answers) and attends_to_image_alone(modules[layer]):
                why = (
                    "nothing comes after it there" if edit.acts_after_image else "which rows answer is not known there"
                )
                raise ValueError(
                    f"{type(edit).__name__} cannot act on {Head(layer, chosen[0])}: layer {layer} attends to the image "
                    f"alone, {why}; ZeroHeads can"
                )
    opened = [modules[layer] for layer in sorted(block.layers)]
    with switch_attention(model, ATTENTION):
        for module in opened:
            module.__dict__.setdefault(_BLOCKS, []).append(block)
        try:
            yield
        finally:
            for module in opened:
                blocks = module.__dict__[_BLOCKS]
                blocks.remove(block)
                if not blocks:
                    del module.__dict__[_BLOCKS]
    # only reached when the block was left without an exception
    if missing := sorted(block.layers - block.called):
        raise RuntimeError(f"layers {missing} were never called while the block was open; their heads saw nothing")


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
    blocks: list[_Block] = module.__dict__.get(_BLOCKS, [])
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


def _find_spans(module: nn.Module, block: _Block, call: AttentionCall, window: int | None) -> Spans:
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
