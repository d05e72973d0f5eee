"""One sample's clean pass, and one-token rows that are carried behind its prefix to the targets' log-probabilities.

All rows read the keys and values of the one prefix, without a copy of it per row.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel

from llava_hh.attention.function import answering
from llava_hh.attention.modules import attribute_set, decoder_layers, input_device
from llava_hh.attribution.outputs import editing_outputs, mlp_of
from llava_hh.attribution.replacement import Copies
from llava_hh.files.module_hooks import hooked

MAX_LOGITS = 3 * 2**22  # logits that exist at the same time: 50 MB in float32
CPU_BLOCK, BLOCK_ROWS = 1024, 1024  # words and rows per product on a CPU, so that logits stay in its caches
# Which dimensions of a decoder layer's tensor arguments are (batch, position). Other tensors are refused, not guessed.
BATCH_AND_POSITION = {
    "position_ids": (-2, -1),
    "position_embeddings": (-3, -2),
    "cross_attention_mask": (0, -2),
    "full_text_row_masked_out_mask": (0, -2),
}


@dataclass
class Prefix:
    """What sweeps read of one clean pass over the sample, per decoder layer."""

    layers: list[nn.Module]
    attentions: list[nn.Module]
    cache: DynamicCache = field(default_factory=DynamicCache)  # built without a config: keeps keys beyond a window too
    arguments: list[dict] = field(default_factory=list)  # what the model passed to each layer besides hidden states
    embeddings: Tensor | None = None  # batch position d_model: the input of the first layer
    layers_return_tuples: bool = False  # Chameleon's do

    def record(self, _: nn.Module, args: tuple, kwargs: dict) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        self.embeddings = hidden if self.embeddings is None else self.embeddings
        self.arguments.append({name: value for name, value in kwargs.items() if name != "hidden_states"})


@dataclass
class PrefixRows:
    """A batch of one-token rows of an attention module; called, it attends for the module (`answering`).

    A row is one token at one target position. Keys and values of the prefix are those of a single sample.
    """

    keys: Tensor  # key_head prefix d_head
    values: Tensor  # key_head prefix d_head
    visible: Tensor | None  # target prefix, bool: what each target's query may see; None: everything
    target_of_row: Tensor  # row, index of its target
    n_targets: int
    edit: Callable[..., None] | None = None  # changes the heads' outputs, (row, head, d_head), in place
    without: Callable[..., Tensor] | None = None  # of Reading: what the first rows' heads give without each source
    sees_itself: bool = True  # False in cross attention, whose keys are those of the image alone

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """The heads' outputs, (row, 1, head, d_head), of (row, head, 1, d_head); key and value are the rows' own."""
        n_rows, n_heads, _, d_head = query.shape
        n_key_heads, n_prefix, _ = self.keys.shape
        scaling = d_head**-0.5 if scaling is None else scaling

        # One product per key head, over the rows and the query heads that share this key head.
        grouped = query.view(n_rows, n_key_heads, -1, d_head).transpose(0, 1)  # key_head row group d_head
        stacked = grouped.reshape(n_key_heads, -1, d_head) * scaling
        keys, values = self.keys, self.values
        if self.sees_itself:  # a column for the row's own key, 0 in both products, so that scores are not copied for it
            keys, values = (pad(prefix, (0, 0, 0, 1)) for prefix in (keys, values))
        scores = torch.bmm(stacked, keys.transpose(1, 2)).float().view(n_key_heads, n_rows, -1, keys.shape[1])
        if self.visible is not None:
            scores[..., :n_prefix].masked_fill_(~self.visible[self.target_of_row][None, :, None], float("-inf"))
        if self.sees_itself:
            own_key, own_value = key.transpose(0, 1), value.transpose(0, 1)  # key_head row 1 d_head
            scores[..., -1] = (grouped.float() * own_key.float()).sum(-1) * scaling
        weights = scores.softmax(dim=-1)  # key_head row group prefix(+1)
        pattern = weights.to(value.dtype)
        z = torch.bmm(pattern.flatten(1, 2), values).view(n_key_heads, n_rows, -1, value.shape[-1])
        if self.sees_itself:
            z = z + pattern[..., -1:] * own_value
        z = z.transpose(0, 1).reshape(n_rows, 1, n_heads, -1)  # row query head d_head

        if self.without is not None:
            own = own_value[:, : self.n_targets] if self.sees_itself else None
            self.edit(z[:, 0], self.without(weights[:, : self.n_targets], self.values, own))
        elif self.edit is not None:
            self.edit(z[:, 0])
        return z


def read_prefix(model: PreTrainedModel, attentions: Mapping[int, nn.Module], inputs: Mapping[str, Tensor]) -> Prefix:
    """Run the sample once, without the vocabulary product, and keep what the sweeps read."""
    prefix = Prefix(decoder_layers(model), list(attentions.values()))
    with hooked(((layer, prefix.record) for layer in prefix.layers), before=True, with_kwargs=True):
        model.base_model(**inputs, past_key_values=prefix.cache, use_cache=True)
    if len(prefix.arguments) != len(prefix.layers):
        counts = f"{len(prefix.arguments)} decoder layers ran instead of {len(prefix.layers)}"
        raise ValueError(f"{counts}: a sample must use all of them (a model with cross attention needs its image)")
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
        edit = None if gates is None else partial(Tensor.mul_, other=gates[index][..., None])
        module_edits = {}
        if joining := copies.per_target(index):
            hidden = torch.cat([hidden, hidden[: len(positions)].repeat_interleave(joining, dim=0)])
            target_of_row = torch.cat([target_of_row, targets.repeat_interleave(joining)])
            edit = partial(copies.write, "heads", index)
            if copies.modules:
                module_edits[attention.o_proj] = partial(copies.write, "mha", index)
                module_edits[mlp_of(layer)] = partial(copies.write, "mlp", index)
        rows = _prefix_rows(prefix, index, positions, target_of_row, edit)
        if joining and copies.reading is not None:
            keys = copies.reading.keys(copies.positions, rows.keys.shape[1], of_image_alone=not rows.sees_itself)
            rows.without = partial(copies.reading.without, index, keys)
        with answering(attention, rows), editing_outputs(module_edits):
            output = layer(hidden, **_layer_arguments(prefix, index, positions[target_of_row], rows.sees_itself))
        prefix.layers_return_tuples = isinstance(output, tuple)
        hidden = output[0] if prefix.layers_return_tuples else output
    return hidden, target_of_row


def _prefix_rows(
    prefix: Prefix, index: int, positions: Tensor, target_of_row: Tensor, edit: Callable[[Tensor], None] | None
) -> PrefixRows:
    """The keys and values before the last of `positions` in layer `index`, and what each target may see of them."""
    keys, values = prefix.cache.layers[index].keys[0], prefix.cache.layers[index].values[0]  # key_head position d_head
    causal = getattr(prefix.attentions[index], "is_causal", False)
    mask = prefix.arguments[index].get("attention_mask" if causal else "cross_attention_mask")
    n_prefix = int(positions.max()) if causal else keys.shape[1]
    sees = positions[:, None] if causal else torch.full((len(positions), 1), n_prefix)
    visible = torch.arange(n_prefix) < sees
    if mask is not None:
        rows = mask[0, 0, positions.to(mask.device), :n_prefix].cpu()
        visible &= rows if rows.dtype == torch.bool else rows == 0
    visible = None if visible.all() else visible.to(keys.device)
    keys, values, target_of_row = keys[:, :n_prefix], values[:, :n_prefix], target_of_row.to(keys.device)
    return PrefixRows(keys, values, visible, target_of_row, len(positions), edit, sees_itself=causal)


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


def target_log_probs(model: PreTrainedModel, prefix: Prefix, hidden: Tensor, target_ids: Tensor) -> Tensor:
    """Log-probability (nats) of each row's target, (row,) float32 on the CPU.

    The model runs on one token, and its decoder layers return rows of `hidden` instead of computing. So final norm,
    vocabulary product and what a family does to its logits (soft capping, masked image tokens) are the model's. Where
    it does nothing to them, a CPU takes the words block by block, and no row's logits exist as a whole.

    Args:
        prefix: of the sweep that computed `hidden`.
        hidden: output of the last of them, (row, 1, d_model).
        target_ids: (row,).
    """
    head = model.get_output_embeddings()
    by_blocks = _is_plain(head) and _leaves_logits_alone(model, prefix, head, hidden[:1])
    chunk = BLOCK_ROWS if by_blocks else max(1, MAX_LOGITS // model.config.get_text_config().vocab_size)
    log_probs = []
    for rows, targets in zip(hidden.split(chunk), target_ids.split(chunk), strict=True):
        if by_blocks:

            def block_by_block(normed: Tensor, targets: Tensor = targets) -> Tensor:
                log_probs.append(log_probs_by_blocks(normed.flatten(0, -2), head.weight, targets))
                return normed[..., :1]

            _logits(model, prefix, rows, block_by_block)
        else:
            logits = _logits(model, prefix, rows)
            chosen = logits.float().log_softmax(dim=-1).gather(1, targets[:, None].to(logits.device))
            log_probs.append(chosen[:, 0].cpu())
    return torch.cat(log_probs)


def _logits(
    model: PreTrainedModel, prefix: Prefix, rows: Tensor, head: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """The model's logits of rows behind its last layer, (row, vocabulary); `head` replaces the vocabulary product."""
    output = (rows,) if prefix.layers_return_tuples else rows
    with ExitStack() as stack:
        for layer in prefix.layers:
            stack.enter_context(attribute_set(layer, "forward", lambda *_, **__: output))
        if head is not None:
            stack.enter_context(attribute_set(model.get_output_embeddings(), "forward", head))
        token = torch.zeros(1, 1, dtype=torch.long, device=input_device(model))
        return model(input_ids=token, use_cache=False, return_dict=True).logits[:, -1]


def _is_plain(head: nn.Module | None) -> bool:
    """Whether a vocabulary head is a plain product on a CPU, of which nobody wants a gradient."""
    plain = type(head) is nn.Linear and head.bias is None and head.weight.device.type == "cpu"
    return plain and not torch.is_grad_enabled()


def _leaves_logits_alone(model: PreTrainedModel, prefix: Prefix, head: nn.Linear, row: Tensor) -> bool:
    """Whether the model returns what its vocabulary head gives, bit by bit: tried with logits from -1000 to 1000."""
    tried = torch.linspace(-1e3, 1e3, head.out_features).to(row.dtype)
    return torch.equal(_logits(model, prefix, row, lambda _: tried.clone()[None, None]), tried[None])


def log_probs_by_blocks(rows: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each row's target, (row,) fp32, under logits rows @ weight.T; a block of words at a time.

    Args:
        rows: (row, d_model); weight: (vocabulary, d_model); targets: (row,).
    """
    held = rows.new_empty(len(rows), CPU_BLOCK)
    largest, total = torch.full((len(rows),), -torch.inf), torch.zeros(len(rows))
    chosen = torch.empty(len(rows))
    for first, words in zip(range(0, len(weight), CPU_BLOCK), weight.split(CPU_BLOCK), strict=True):
        logits = torch.mm(rows, words.T, out=held[:, : len(words)]).float()  # in fp32 the same memory
        here = ((targets >= first) & (targets < first + len(words))).nonzero()[:, 0]
        chosen[here] = logits[here, targets[here] - first]
        before, largest = largest, torch.maximum(largest, logits.amax(-1))
        total = total * (before - largest).exp() + logits.sub_(largest[:, None]).exp_().sum(-1)
    return chosen - largest - total.log()
