"""Context managers that edit, record or observe the attention of a model through the package's attention function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from llava_hh.attention.interventions import Intervention
from llava_hh.attention.modules import attends_to_image_alone, attention_modules, decoder_layers, switch_attention
from llava_hh.attention.spans import SpanFinder
from llava_hh.attention.trace import BLOCKS, Block, Observer, Trace, watch_generate
from llava_hh.files.module_hooks import hooked
from llava_hh.heads import Head, by_layer, check_heads

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
            lies behind it is the answer, so a second turn of a conversation needs another block. Rows may have several
            images and earlier turns, which are text: what comes after the last image is after the image.
        response_start: the answer's first position in each row, where image_mask covers some of the answer.
        on_rows: whether each row of image_mask is edited, such as one of two twins; the other rows keep every bit and
            take no decisions. None is all rows.

    Raises:
        IndexError: a head that the model does not have.
        ValueError: a bad image_mask, response_start or on_rows; a model whose attention cannot be replaced; in a layer
            that attends to the image alone (Mllama's cross-attention), an edit of what comes after the image or of
            answer rows; in `generate`, a prompt of another length than image_mask, if it has images, or if an
            intervention acts on answers.
        RuntimeError: on leaving, if a layer of one of the heads was never called and no other exception is on its way.
        NotImplementedError: in a forward whose sliding-window cache may have dropped keys, so that spans are unknown.
    """
    block = Block(SpanFinder(image_mask, response_start, on_rows))
    for number, intervention in enumerate(interventions):
        intervention.check(len(image_mask))
        for layer, heads in by_layer(intervention.heads).items():
            block.edits.setdefault(layer, []).append((number, intervention, heads))
    on_answers = any(intervention.acts_on_answers for intervention in interventions)
    watch = watch_generate(model, block.spans, block.trace, text_too=on_answers)
    reading = sorted({head.layer for edit in interventions if edit.reads_hidden for head in edit.heads})
    with (
        _keep_hidden(model, block, reading),
        _open(model, block, [head for intervention in interventions for head in intervention.heads]),
        watch,
    ):
        yield block.trace


@contextmanager
def record(
    model: PreTrainedModel,
    image_mask: Tensor,
    mass: Iterable[tuple[int, int]] | None = None,
    maps: Iterable[tuple[int, int]] | None = None,
) -> Iterator[Trace]:
    """Record the attention of chosen heads in every forward pass while the block is open; it changes no output.

    Inside `intervene`, a head's edit doesn't show: recorded is the softmax of its queries and keys before the edit.
    Edits of earlier layers do show, in those queries and keys. Recordings carry gradients unless the forward runs
    without; gradient checkpointing records its recomputation as one more forward.

    Args:
        image_mask: (batch, prompt position) bool; a forward may have each row several times in a row (beams).
        mass: heads whose mass on the image and after it is kept; no map is built for these.
        maps: heads whose maps are kept.

    Raises:
        IndexError: a head that the model does not have.
        ValueError: a bad image_mask, or a model whose attention cannot be replaced; in `generate`, images in a prompt
            of another length than image_mask.
        RuntimeError: on leaving, if a layer of one of the heads was never called and no other exception is on its way.
        NotImplementedError: in a forward whose sliding-window cache may have dropped keys, so that spans are unknown.
    """
    mass, maps = list(mass or ()), list(maps or ())
    block = Block(SpanFinder(image_mask), mass=by_layer(mass), maps=by_layer(maps))
    block.trace.mass = {layer: [] for layer in block.mass}
    block.trace.maps = {layer: [] for layer in block.maps}
    with _open(model, block, mass + maps), watch_generate(model, block.spans, block.trace, text_too=False):
        yield block.trace


@contextmanager
def observe(model: PreTrainedModel, heads: Iterable[tuple[int, int]], observer: Observer) -> Iterator[None]:
    """Call `observer(layer, heads, call)` in every forward of the layers of `heads`; it changes no output.

    The heads of the layer come as an index tensor, ascending. The call has the inputs of the attention, from which the
    observer takes the rows that it needs. What it computes carries gradients unless the forward runs without.

    Under gradient checkpointing the recomputation calls it once more, and it must compute the same. So leave the block
    only after backward, and keep all that the observer reads until then.

    Raises:
        IndexError: a head that the model does not have.
        ValueError: a model whose attention cannot be replaced.
        RuntimeError: on leaving, if a layer of one of the heads was never called and no other exception is on its way.
    """
    heads = list(heads)
    with _open(model, Block(None, observed=by_layer(heads), observer=observer), heads):
        yield


def is_edited(model: PreTrainedModel) -> bool:
    """Whether a block of `intervene` with something to edit is open on the model."""
    blocks = (block for module in attention_modules(model).values() for block in module.__dict__.get(BLOCKS, ()))
    return any(block.edits for block in blocks)


@contextmanager
def _keep_hidden(model: PreTrainedModel, block: Block, layers: Sequence[int]) -> Iterator[None]:
    """Keep what enters `layers` in every forward, for edits that read it."""
    modules = decoder_layers(model) if layers else []

    def keep(layer: int, _: nn.Module, args: tuple, kwargs: dict) -> None:
        block.hidden[layer] = args[0] if args else kwargs["hidden_states"]

    hooks = ((modules[layer], partial(keep, layer)) for layer in layers)
    with hooked(hooks, before=True, with_kwargs=True):
        yield


@contextmanager
def _open(model: PreTrainedModel, block: Block, heads: Sequence[tuple[int, int]]) -> Iterator[None]:
    from transformers import PreTrainedModel

    from llava_hh.attention.function import ATTENTION  # imports transformers' modeling, which takes seconds

    modules = attention_modules(model)
    text_config = next(iter(modules.values())).config
    check_heads(heads, len(modules), text_config.num_attention_heads)
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and part.config is text_config and not part._supports_sdpa:
            raise ValueError(f"{type(part).__name__} does not support fused (sdpa) attention, which edits need")
    for layer, edits in block.edits.items():
        for _, edit, chosen in edits:
            if (edit.acts_after_image or edit.acts_on_answers) and attends_to_image_alone(modules[layer]):
                why = "nothing comes after it" if edit.acts_after_image else "which rows answer is not known"
                what = f"{type(edit).__name__} cannot act on {Head(layer, chosen[0])}"
                raise ValueError(f"{what}: layer {layer} attends to the image alone, {why} there; ZeroHeads can")
    layers = {layer for layer, _ in heads}
    opened = [modules[layer] for layer in sorted(layers)]
    with switch_attention(model, ATTENTION):
        for module in opened:
            module.__dict__.setdefault(BLOCKS, []).append(block)
        try:
            yield
        finally:  # blocks may be left in any order
            for module in opened:
                module.__dict__[BLOCKS].remove(block)
                if not module.__dict__[BLOCKS]:
                    del module.__dict__[BLOCKS]
    # only reached when the block was left without an exception
    if missing := sorted(layers - block.called):
        raise RuntimeError(f"layers {missing} were never called while the block was open; their heads saw nothing")
