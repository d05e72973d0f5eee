"""One sample's clean pass, and rows of single tokens that are carried through all layers behind its prefix."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from llava_hh.attention.function import answering
from llava_hh.attention.modules import decoder_layers
from llava_hh.attribution.outputs import editing_outputs, mlp_of
from llava_hh.attribution.replacement import Copies
from llava_hh.attribution.shared_prefix import PrefixRows
from llava_hh.files.module_hooks import hooked

# Which dimensions of a decoder layer's tensor arguments are (batch, position). Other tensors are refused, not guessed.
BATCH_AND_POSITION = {
    "position_ids": (-2, -1),
    "position_embeddings": (-3, -2),
    "cross_attention_mask": (0, -2),
    "full_text_row_masked_out_mask": (0, -2),
}


@dataclass
class Prefix:
    """What one clean pass over the sample leaves behind, per decoder layer."""

    layers: list[nn.Module]
    attentions: list[nn.Module]
    cache: DynamicCache = field(default_factory=DynamicCache)  # built without a config: keeps keys beyond a window too
    arguments: list[dict] = field(default_factory=list)  # what the model passed to each layer besides hidden states
    embeddings: Tensor | None = None  # batch position d_model: the input of the first layer
    layers_return_tuples: bool = False  # Chameleon's do

    def record(self, _: nn.Module, args: tuple, kwargs: dict) -> None:
        kwargs = dict(kwargs)
        hidden = args[0] if args else kwargs.pop("hidden_states")
        if self.embeddings is None:
            self.embeddings = hidden
        self.arguments.append(kwargs)


def read_prefix(model: PreTrainedModel, attentions: Mapping[int, nn.Module], inputs: Mapping[str, Tensor]) -> Prefix:
    """Run the sample once, without the vocabulary product, and keep what the sweeps read."""
    prefix = Prefix(decoder_layers(model), list(attentions.values()))
    with hooked(((layer, prefix.record) for layer in prefix.layers), before=True, with_kwargs=True):
        model.base_model(**inputs, past_key_values=prefix.cache, use_cache=True)
    if len(prefix.arguments) != len(prefix.layers):
        raise ValueError(
            f"{len(prefix.arguments)} decoder layers ran instead of {len(prefix.layers)}: "
            "a sample must use all of them (a model with cross attention needs its image)"
        )
    return prefix


def sweep(prefix: Prefix, copies: Copies, gates: Sequence[Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Carry the clean tokens at the targets' positions, and `copies` of them, through all layers.

    Args:
        gates: by layer, what every head's output is multiplied by, (target, head); there are no copies then.
    Returns:
        Output of the last layer, (row, 1, d_model), and the index of each row's target. Rows: the clean tokens, then
        layer by layer of `copies`, target by target, copy by copy.
    """
    positions = torch.tensor(copies.positions)
    hidden = prefix.embeddings[0, positions.to(prefix.embeddings.device)].unsqueeze(1)  # row query d_model
    targets = torch.arange(len(positions))
    target_of_row = targets
    for index, (layer, attention) in enumerate(zip(prefix.layers, prefix.attentions, strict=True)):
        edit = None if gates is None else partial(_scale_heads, gates[index])
        module_edits = {}
        if joining := copies.per_target(index):
            hidden = torch.cat([hidden, hidden[: len(positions)].repeat_interleave(joining, dim=0)])
            target_of_row = torch.cat([target_of_row, targets.repeat_interleave(joining)])
            edit = partial(copies.write, "heads", index)
            if copies.modules:
                module_edits[attention.o_proj] = partial(copies.write, "mha", index)
                module_edits[mlp_of(layer)] = partial(copies.write, "mlp", index)
        rows = _prefix_rows(prefix, index, positions, target_of_row, edit)
        with answering(attention, rows), editing_outputs(module_edits):
            output = layer(hidden, **_layer_arguments(prefix, index, positions[target_of_row], rows.sees_itself))
        prefix.layers_return_tuples = isinstance(output, tuple)
        hidden = output[0] if prefix.layers_return_tuples else output
    return hidden, target_of_row


def _scale_heads(gates: Tensor, output: Tensor) -> None:
    output.mul_(gates[..., None])


def _prefix_rows(
    prefix: Prefix, index: int, positions: Tensor, target_of_row: Tensor, edit: Callable[[Tensor], None] | None
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


def _layer_arguments(prefix: Prefix, index: int, position_of_row: Tensor, causal: bool) -> dict:
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
