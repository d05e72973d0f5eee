"""What each head or module does for one predicted token: its log-probability without them, for all in few passes.

The obvious loop runs the language model once per head. Here one pass over the sample keeps every layer's keys and
values, and one sweep over the layers carries all ablated copies of the predicting tokens at once: on entering layer l,
a fresh copy of the clean token joins the batch for each head of l (and, if asked, for its attention and its MLP), loses
it in l, and runs on to the vocabulary with the copies made in earlier layers. All of them read the same prefix.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from llava_hh.attention import attention_modules, switch_attention
from llava_hh.attribution.outputs import check_sample, editing_outputs, enclosing_layers, mlp_of
from llava_hh.attribution.replacement import Copies, Replacement, Zero, check_replacement
from llava_hh.attribution.shared_prefix import SHARED_PREFIX, PrefixRows, sharing_prefix
from llava_hh.attribution.vocabulary import target_log_probs

# Which dimensions of a decoder layer's tensor arguments are (batch, position). Other tensors are refused, not guessed.
BATCH_AND_POSITION = {
    "position_ids": (-2, -1),
    "position_embeddings": (-3, -2),
    "cross_attention_mask": (0, -2),
    "full_text_row_masked_out_mask": (0, -2),
}


@dataclass(frozen=True)
class Ablated:
    """Log-probabilities (nats) of the targets, float32 on the CPU: clean, and without each head, attention and MLP."""

    clean: Tensor  # target
    heads: Tensor  # target layer head
    mha: Tensor | None = None  # target layer
    mlp: Tensor | None = None  # target layer


@torch.no_grad()
def ablate_every_head(
    model: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    positions: Sequence[int],
    target_ids: Sequence[int],
    max_rows: int = 4096,
    *,
    modules: bool = False,
    replacement: Replacement = Zero(),  # noqa: B008
    sample_id: int | None = None,
) -> Ablated:
    """Log-probability of each target token, clean and with each head of the language model replaced in turn.

    A head is replaced (its slice of the o_proj input) at the predicting position alone. All earlier positions stay
    clean, as in one cached decoding step; in later layers the predicting position sees its own, ablated, key and value.
    With `modules`, so are each layer's attention output (of o_proj) and MLP output (of `mlp`), before any norm or gate
    that follows them; residual and norms stay. Exact: equal to one cached forward pass per head, up to rounding.

    Args:
        model: any transformers model that attends through AttentionInterface, in eval mode.
        inputs: forward arguments of one teacher-forced sample: `input_ids` or `inputs_embeds` of shape
            (1, position[, d_model]), and what else the model takes (`attention_mask`, `pixel_values`, ...).
        positions: the positions whose logits predict the targets: a target that is token p + 1 has position p.
        target_ids: the token id to score at each of `positions`; it need not be the one in `inputs`.
        max_rows: the most one-token rows that a sweep carries; at least 1 + n_copies, where n_copies is n_heads, plus 2
            with `modules`. One target in full is 1 + n_layers * n_copies rows. Fewer rows mean less memory, more sweeps
            and the same answer. Peak memory on top of the model is about max_rows * (3 * d_ff values + 3 * n_heads *
            n_prefix float32), plus the keys and values of one sample, plus 2 * `vocabulary.MAX_LOGITS` float32.
        replacement: what an ablated output becomes.
        sample_id: which sample this is, 0 or more; it seeds `Noise`, and nothing else reads it.
    Raises:
        ValueError: more than one sample, positions or targets that do not fit, too small a `max_rows`, statistics of
            another model, noise without a `sample_id`, a model in training mode or of an architecture that does not
            attend through AttentionInterface; with `modules`, a layer without an `mlp` that returns a tensor.

    Source: paper, counterfactual influence of attention heads and of per-layer MHA and MLP modules; zeroing at a
        single position as in the released code.
    Differs: the released code has heads and zeroing only, runs one forward pass per head and has 32 layers of 32 heads
        written into it. At a caption's very first token its forward pass is the prefill, so it zeroes the head at all
        positions of the prompt; here at the predicting position, as for every other token.
    """
    attentions = attention_modules(model)
    n_layers, n_heads = len(attentions), model.config.get_text_config().num_attention_heads
    check_sample(model, inputs, positions)
    _check_targets(model, positions, target_ids)
    o_proj = next(iter(attentions.values())).o_proj
    shapes = {"heads": (n_layers, n_heads, o_proj.in_features // n_heads)}
    if modules:
        shapes |= dict.fromkeys(("mha", "mlp"), (n_layers, o_proj.out_features))
    check_replacement(replacement, shapes, sample_id)
    positions, targets = [int(position) for position in positions], torch.as_tensor(target_ids, dtype=torch.long)
    n_copies = n_heads + 2 * modules
    sweeps = _plan_sweeps(len(positions), n_layers, n_copies, max_rows)

    clean = torch.empty(len(positions))
    ablated = torch.empty(len(positions), n_layers, n_copies)
    if sweeps:
        with switch_attention(model, SHARED_PREFIX):
            prefix = _read_prefix(model, attentions, inputs)
            for chosen, swept in sweeps:
                copies = Copies(swept, tuple(positions[chosen]), n_heads, modules, replacement, sample_id)
                hidden, target_of_row = _sweep(prefix, copies)
                row_targets = targets[chosen][target_of_row]
                log_probs = target_log_probs(model, prefix.layers, prefix.layers_return_tuples, hidden, row_targets)
                n_targets = len(copies.positions)
                by_layer = log_probs[n_targets:].view(len(swept), n_targets, n_copies)
                clean[chosen] = log_probs[:n_targets]
                ablated[chosen, swept.start : swept.stop] = by_layer.transpose(0, 1)
    of_modules = ablated[..., n_heads:].movedim(-1, 0).contiguous()  # mha and mlp, or nothing
    return Ablated(clean, ablated[..., :n_heads].contiguous(), *of_modules)


def _plan_sweeps(n_targets: int, n_layers: int, n_copies: int, max_rows: int) -> list[tuple[slice, range]]:
    """Which targets each sweep carries, and which layers it copies them in: as many as `max_rows` rows allow."""
    if max_rows < 1 + n_copies:
        raise ValueError(f"max_rows is {max_rows}; the copies of one layer need at least 1 + {n_copies} rows")
    targets_per_sweep = max(1, max_rows // (1 + n_layers * n_copies))
    layers_per_sweep = min(n_layers, (max_rows - 1) // n_copies)  # less than all only where one target fills a sweep
    return [
        (slice(first, first + targets_per_sweep), range(layer, min(layer + layers_per_sweep, n_layers)))
        for first in range(0, n_targets, targets_per_sweep)
        for layer in range(0, n_layers, layers_per_sweep)
    ]


@dataclass
class _Prefix:
    """What one clean pass over the sample leaves behind, per decoder layer."""

    layers: list[nn.Module]
    attentions: list[nn.Module]
    cache: DynamicCache = field(default_factory=DynamicCache)  # built without a config: keeps keys beyond a window too
    arguments: list[dict] = field(default_factory=list)  # what the model passed to each layer besides hidden states
    embeddings: Tensor | None = None  # batch position d_model: the input of the first layer
    layers_return_tuples: bool = False  # Chameleon's do

    def record(self, args: tuple, kwargs: dict) -> None:
        kwargs = dict(kwargs)
        hidden = args[0] if args else kwargs.pop("hidden_states")
        if self.embeddings is None:
            self.embeddings = hidden
        self.arguments.append(kwargs)


def _read_prefix(model: PreTrainedModel, attentions: Mapping[int, nn.Module], inputs: Mapping[str, Tensor]) -> _Prefix:
    """Run the sample once, without the vocabulary product, and keep what the sweeps read."""
    prefix = _Prefix(list(enclosing_layers(model, attentions).values()), list(attentions.values()))
    handles = []
    try:
        for layer in prefix.layers:
            hook = layer.register_forward_pre_hook(
                lambda _, args, kwargs: prefix.record(args, kwargs), with_kwargs=True
            )
            handles.append(hook)
        model.base_model(**inputs, past_key_values=prefix.cache, use_cache=True)
    finally:
        for handle in handles:
            handle.remove()
    if len(prefix.arguments) != len(prefix.layers):
        raise ValueError(
            f"{len(prefix.arguments)} decoder layers ran instead of {len(prefix.layers)}: "
            "a sample must use all of them (a model with cross attention needs its image)"
        )
    return prefix


def _sweep(prefix: _Prefix, copies: Copies) -> tuple[Tensor, Tensor]:
    """Carry the clean tokens at the targets' positions, and `copies` of them, through all layers.

    Returns:
        Output of the last layer, (row, 1, d_model), and the index of each row's target. Rows: the clean tokens, then
        layer by layer of `copies`, target by target, copy by copy.
    """
    positions = torch.tensor(copies.positions)
    hidden = prefix.embeddings[0, positions.to(prefix.embeddings.device)].unsqueeze(1)  # row query d_model
    targets = torch.arange(len(positions))
    target_of_row = targets
    for index, (layer, attention) in enumerate(zip(prefix.layers, prefix.attentions, strict=True)):
        edit, module_edits = None, {}
        if index in copies.layers:
            hidden = torch.cat([hidden, hidden[: len(positions)].repeat_interleave(copies.per_target, dim=0)])
            target_of_row = torch.cat([target_of_row, targets.repeat_interleave(copies.per_target)])
            edit = partial(copies.write, "heads", index)
            if copies.modules:
                module_edits[attention.o_proj] = partial(copies.write, "mha", index)
                module_edits[mlp_of(layer)] = partial(copies.write, "mlp", index)
        rows = _prefix_rows(prefix, index, positions, target_of_row, edit)
        with sharing_prefix(attention, rows), editing_outputs(module_edits):
            output = layer(hidden, **_layer_arguments(prefix, index, positions[target_of_row], rows.sees_itself))
        prefix.layers_return_tuples = isinstance(output, tuple)
        hidden = output[0] if prefix.layers_return_tuples else output
    return hidden, target_of_row


def _prefix_rows(
    prefix: _Prefix, index: int, positions: Tensor, target_of_row: Tensor, edit: Callable[[Tensor], None] | None
) -> PrefixRows:
    """The keys and values before the last of `positions` in layer `index`, and what each target may see of them."""
    keys, values = prefix.cache.layers[index].keys[0], prefix.cache.layers[index].values[0]  # key_head position d_head
    causal = getattr(prefix.attentions[index], "is_causal", False)
    mask = prefix.arguments[index].get("attention_mask" if causal else "cross_attention_mask")
    n_prefix = int(positions.max()) if causal else keys.shape[1]
    visible = torch.ones(len(positions), n_prefix, dtype=torch.bool)
    if causal:
        visible = torch.arange(n_prefix) < positions[:, None]
    if mask is not None:
        rows = mask[0, 0, positions.to(mask.device), :n_prefix].cpu()
        visible &= rows if rows.dtype == torch.bool else rows == 0
    return PrefixRows(
        keys=keys[:, :n_prefix],
        values=values[:, :n_prefix],
        visible=None if visible.all() else visible.to(keys.device),
        target_of_row=target_of_row.to(keys.device),
        edit=edit,
        sees_itself=causal,
    )


def _layer_arguments(prefix: _Prefix, index: int, position_of_row: Tensor, causal: bool) -> dict:
    """The arguments that the model gave layer `index` for the whole sample, cut to one position per row."""

    def cut(name: str, value: object) -> object:
        if isinstance(value, tuple):
            return tuple(cut(name, part) for part in value)
        if not isinstance(value, Tensor):
            return value
        if name not in BATCH_AND_POSITION:
            raise ValueError(f"decoder layer argument {name!r}: only {sorted(BATCH_AND_POSITION)} may be tensors")
        batch, position = BATCH_AND_POSITION[name]
        return value.index_select(position, position_of_row.to(value.device)).transpose(batch, position)

    # The attention function has the mask and the prefix. Cross attention reads its keys from the cache, which stays.
    replaced = {"attention_mask": None, "cross_attention_states": None, "use_cache": False}
    replaced["past_key_values"] = None if causal else prefix.cache
    arguments = prefix.arguments[index]
    return {name: replaced[name] if name in replaced else cut(name, value) for name, value in arguments.items()}


def _check_targets(model: PreTrainedModel, positions: Sequence[int], target_ids: Sequence[int]) -> None:
    if len(positions) != len(target_ids):
        raise ValueError(f"{len(positions)} positions but {len(target_ids)} target_ids; one target per position")
    vocabulary = model.config.get_text_config().vocab_size
    for target in target_ids:
        if not 0 <= target < vocabulary:
            raise ValueError(f"target id {target} is outside the vocabulary, which has ids 0 to {vocabulary - 1}")
