"""The trained part of TF-HH: rows of the query and key projections that belong to chosen heads, and the vocabulary."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from llava_hh.attention.modules import attends_to_image_alone, attention_modules
from llava_hh.heads import Head, by_layer, check_heads


class TunedRows(nn.Module):
    """A frozen linear layer with some output rows as separate parameters, in fp32.

    Nothing else of the layer has a gradient, and the optimizer keeps state for these rows alone. A bias stays frozen.

    Args:
        base: the layer; its weight is not changed before `merge`.
        rows: which output rows, ascending; None is all of them.
    Raises:
        ValueError: the weight is not a matrix of floating-point numbers, such as a quantised one.
    """

    def __init__(self, base: nn.Linear, rows: list[int] | None = None) -> None:
        super().__init__()
        weight = base.weight
        if weight.ndim != 2 or not weight.is_floating_point():
            raise ValueError(f"rows of a weight of type {weight.dtype} cannot be trained; load the model unquantised")
        self.base = base.requires_grad_(False)
        index = torch.arange(len(weight)) if rows is None else torch.tensor(rows)
        self.register_buffer("index", index.to(weight.device), persistent=False)
        self.rows = nn.Parameter(weight.detach()[self.index].float().clone())

    def forward(self, states: Tensor) -> Tensor:
        bias = None if self.base.bias is None else self.base.bias[self.index]
        tuned = linear(states, self.rows.to(states.dtype), bias)
        is_whole = len(self.index) == len(self.base.weight)
        return tuned if is_whole else self.base(states).index_copy(-1, self.index, tuned)

    def merge(self) -> nn.Linear:
        """The layer with the trained rows written into its weight."""
        with torch.no_grad():
            self.base.weight[self.index] = self.rows.to(self.base.weight.dtype)
        return self.base


def first_heads(heads: Iterable[tuple[int, int]]) -> list[Head]:
    """The heads that the released code trains: its loop over the list stops at the first match in each layer."""
    first: dict[int, Head] = {}
    for layer, head in heads:
        first.setdefault(layer, Head(layer, head))
    return list(first.values())


def tune_head_rows(model: PreTrainedModel, heads: Iterable[tuple[int, int]], vocabulary: bool) -> dict[str, TunedRows]:
    """Freeze the model, and make the query and key rows of `heads` trainable; `merge_tuned_rows` ends it.

    With grouped queries a key head serves several query heads. Trained are the rows of the query head, and all rows of
    the key head that it reads; so the other query heads of that group see changed keys too.

    Args:
        vocabulary: train the whole `lm_head` as well.
    Returns: the trained parts by the name of the layer that they stand for.
    Raises:
        IndexError: a head that the model does not have.
        ValueError: no heads; a head that attends to the image alone (Mllama's cross-attention); an attention without
            q_proj and k_proj; `vocabulary` on a model that ties it to the embeddings, which would move as well.
    Source: the paper's targeted fine-tuning (TF-HH).
    """
    heads = list(heads)
    if not heads:
        raise ValueError("no heads to fine-tune")
    modules = attention_modules(model)
    config = next(iter(modules.values())).config
    check_heads(heads, len(modules), config.num_attention_heads)
    output = model.get_output_embeddings()
    if vocabulary and output.weight is model.get_input_embeddings().weight:
        raise ValueError("the model's vocabulary matrix is its embedding matrix; pass --untie, or leave it frozen")
    model.requires_grad_(False)
    names = {id(module): name for name, module in model.named_modules()}
    tuned = {}

    def replace(module: nn.Module, child: str, rows: list[int] | None) -> None:
        part = tuned[f"{names[id(module)]}.{child}".lstrip(".")] = TunedRows(getattr(module, child), rows)
        setattr(module, child, part)

    for layer, chosen in by_layer(heads).items():
        module = modules[layer]
        if attends_to_image_alone(module):
            raise ValueError(f"{Head(layer, chosen[0])} attends to the image alone: it has no text to be weaned from")
        if not all(isinstance(getattr(module, child, None), nn.Linear) for child in ("q_proj", "k_proj")):
            raise ValueError(f"{type(module).__name__} has no linear q_proj and k_proj to take rows of")
        d_head = module.head_dim
        group = config.num_attention_heads // (module.k_proj.out_features // d_head)
        key_heads = sorted({head // group for head in chosen})
        for child, owners in (("q_proj", chosen), ("k_proj", key_heads)):
            replace(module, child, [head * d_head + row for head in owners for row in range(d_head)])
    if vocabulary:
        parent = next(module for module in model.modules() if output in module.children())
        child = next(name for name, module in parent.named_children() if module is output)
        replace(parent, child, None)
    return tuned


def merge_tuned_rows(model: PreTrainedModel, tuned: dict[str, TunedRows]) -> None:
    """Write the trained rows into the model's layers and put these back: an ordinary model again."""
    for name, rows in tuned.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, rows.merge())


def untie_vocabulary(model: PreTrainedModel) -> None:
    """Make the vocabulary matrix a copy of the embeddings; the model is saved and loaded untied from here on."""
    output = model.get_output_embeddings()
    output.weight = nn.Parameter(output.weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
