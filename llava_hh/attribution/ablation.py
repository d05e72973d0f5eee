"""What each head does for one predicted token: its probability after zeroing the head, for all heads in few passes.

The obvious loop runs the language model once per head. Here one pass over the sample keeps every layer's keys and
values, and one sweep over the layers carries all ablated copies of the predicting tokens at once: on entering layer l,
a fresh copy of the clean token joins the batch for each head of l, loses that head in l, and runs on to the vocabulary
with the copies made in earlier layers. All of them read the same prefix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from llava_hh.attribution.shared_prefix import SHARED_PREFIX, PrefixRows, sharing_prefix
from llava_hh.attribution.vocabulary import target_probs
from llava_hh.hooks import attention_modules, switch_attention

# Which dimensions of a decoder layer's tensor arguments are (batch, position). Other tensors are refused, not guessed.
BATCH_AND_POSITION = {
    "position_ids": (-2, -1),
    "position_embeddings": (-3, -2),
    "cross_attention_mask": (0, -2),
    "full_text_row_masked_out_mask": (0, -2),
}


@torch.no_grad()
def ablate_every_head(
    model: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    positions: Sequence[int],
    target_ids: Sequence[int],
    max_rows: int = 4096,
) -> tuple[Tensor, Tensor]:
    """Probability of each target token, clean and with each head of the language model zeroed in turn.

    A head is zeroed (its slice of the o_proj input) at the predicting position alone. All earlier positions stay clean,
    as in one cached decoding step; in later layers the predicting position sees its own, ablated, key and value.
    Exact: equal to one cached forward pass per head, up to rounding.

    Args:
        model: any transformers model that attends through AttentionInterface, in eval mode.
        inputs: forward arguments of one teacher-forced sample: `input_ids` or `inputs_embeds` of shape
            (1, position[, d_model]), and what else the model takes (`attention_mask`, `pixel_values`, ...).
        positions: the positions whose logits predict the targets: a target that is token p + 1 has position p.
        target_ids: the token id to score at each of `positions`; it need not be the one in `inputs`.
        max_rows: the most one-token rows that a sweep carries; at least 1 + n_heads. All heads of one target are
            1 + n_layers * n_heads rows. Fewer rows mean less memory, more sweeps and the same answer. Peak memory on
            top of the model is about max_rows * (3 * d_ff values + 3 * n_heads * n_prefix float32), plus the keys and
            values of one sample, plus 2 * `vocabulary.MAX_LOGITS` float32.
    Returns:
        clean_probs: (target,) and ablated_probs: (target, layer, head), float32 on the CPU. The influence of a head is
        the first minus the second.
    Raises:
        ValueError: more than one sample, positions or targets that do not fit, too small a `max_rows`, a model in
            training mode or of an architecture that does not attend through AttentionInterface.

    Source: paper, counterfactual influence of a module, zero ablation of attention heads; position set and read-out as
        in the released code.
    Differs: the released code runs one forward pass per head and has 32 layers of 32 heads written into it.
    """
    attentions = attention_modules(model)
    n_layers, n_heads = len(attentions), model.config.get_text_config().num_attention_heads
    _check(model, inputs, positions, target_ids)
    where, targets = torch.as_tensor(positions, dtype=torch.long), torch.as_tensor(target_ids, dtype=torch.long)
    if max_rows < 1 + n_heads:
        raise ValueError(f"max_rows is {max_rows}; the heads of one layer need at least 1 + {n_heads} rows")
    targets_per_sweep = max(1, max_rows // (1 + n_layers * n_heads))
    layers_per_sweep = min(n_layers, (max_rows - 1) // n_heads)  # less than all only where one target fills a sweep

    clean = torch.empty(len(positions))
    ablated = torch.empty(len(positions), n_layers, n_heads)
    if not len(positions):
        return clean, ablated
    with switch_attention(model, SHARED_PREFIX):
        prefix = _read_prefix(model, attentions, inputs)
        for first in range(0, len(positions), targets_per_sweep):
            chosen = slice(first, first + targets_per_sweep)
            n_targets = len(positions[chosen])
            for layer in range(0, n_layers, layers_per_sweep):
                swept = range(layer, min(layer + layers_per_sweep, n_layers))
                hidden, target_of_row = _sweep(prefix, where[chosen], swept, n_heads)
                row_targets = targets[chosen][target_of_row]
                probs = target_probs(model, prefix.layers, prefix.layers_return_tuples, hidden, row_targets)
                by_layer = probs[n_targets:].view(len(swept), n_targets, n_heads)
                clean[chosen] = probs[:n_targets]
                ablated[chosen, swept.start : swept.stop] = by_layer.transpose(0, 1)
    return clean, ablated


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
    parent_of = {child: parent for parent in model.modules() for child in parent.children()}
    ordered = [attentions[layer] for layer in sorted(attentions)]
    prefix = _Prefix([parent_of[attention] for attention in ordered], ordered)
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


def _sweep(prefix: _Prefix, positions: Tensor, swept: range, n_heads: int) -> tuple[Tensor, Tensor]:
    """Carry the clean tokens at `positions`, and a copy per head of the layers in `swept`, through all layers.

    Returns:
        Output of the last layer, (row, 1, d_model), and the index of each row's target. Rows: the clean tokens, then
        layer by layer of `swept`, target by target, head by head.
    """
    n_targets = len(positions)
    hidden = prefix.embeddings[0, positions.to(prefix.embeddings.device)].unsqueeze(1)  # row query d_model
    targets = torch.arange(n_targets)
    target_of_row = targets
    for index, (layer, attention) in enumerate(zip(prefix.layers, prefix.attentions, strict=True)):
        ablated = (targets[:0], targets[:0])
        if index in swept:
            copies = hidden[:n_targets].repeat_interleave(n_heads, dim=0)
            ablated = (torch.arange(len(copies)) + len(hidden), torch.arange(n_heads).repeat(n_targets))
            hidden = torch.cat([hidden, copies])
            target_of_row = torch.cat([target_of_row, targets.repeat_interleave(n_heads)])
        rows = _prefix_rows(prefix, index, positions, target_of_row, ablated)
        with sharing_prefix(attention, rows):
            output = layer(hidden, **_layer_arguments(prefix, index, positions[target_of_row], rows.sees_itself))
        prefix.layers_return_tuples = isinstance(output, tuple)
        hidden = output[0] if prefix.layers_return_tuples else output
    return hidden, target_of_row


def _prefix_rows(
    prefix: _Prefix, index: int, positions: Tensor, target_of_row: Tensor, ablated: tuple[Tensor, Tensor]
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
        ablated=(ablated[0].to(keys.device), ablated[1].to(keys.device)),
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


def _check(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], positions: Sequence[int], target_ids: Sequence[int]
) -> None:
    given = [name for name in ("input_ids", "inputs_embeds") if inputs.get(name) is not None]
    if len(given) != 1:
        raise ValueError(f"inputs hold {sorted(inputs)}; exactly one of input_ids and inputs_embeds is needed")
    n_samples, length = inputs[given[0]].shape[:2]
    if n_samples != 1:
        raise ValueError(f"{given[0]} holds {n_samples} samples; one is allowed")
    if len(positions) != len(target_ids):
        raise ValueError(f"{len(positions)} positions but {len(target_ids)} target_ids; one target per position")
    attended = inputs.get("attention_mask")
    for position in positions:
        if not 0 <= position < length:
            raise ValueError(f"position {position} is outside the sample, which has positions 0 to {length - 1}")
        if attended is not None and attended.ndim == 2 and not attended[0, position]:
            raise ValueError(f"position {position} is padding; positions must be tokens that attention_mask keeps")
    vocabulary = model.config.get_text_config().vocab_size
    for target in target_ids:
        if not 0 <= target < vocabulary:
            raise ValueError(f"target id {target} is outside the vocabulary, which has ids 0 to {vocabulary - 1}")
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first, dropout would blur every influence")
