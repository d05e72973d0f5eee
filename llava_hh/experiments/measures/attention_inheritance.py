"""Attention inheritance (figure 4): is a head's attention from text to text still that of the base language model?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from llava_hh.attention.hooks import record
from llava_hh.attention.modules import attention_modules, heads_on_image_alone, input_device
from llava_hh.attention.spans import after_last_image
from llava_hh.attribution.captions import TeacherForced
from llava_hh.experiments.measures.same_layers import compare_in_layers, rest_of_layers
from llava_hh.files.files import read_json
from llava_hh.files.memory import in_parts
from llava_hh.files.module_hooks import hooked
from llava_hh.heads import Head
from llava_hh.metrics.statistics import RESAMPLES, mean_with_interval
from llava_hh.models.lvlm import Batch, Lvlm
from llava_hh.models.weight_files import check_files
from llava_hh.models.without_code import from_folder

LARGEST_MAP = 40  # cells to a side of a heat map


@dataclass(frozen=True)
class TextBlocks:
    """Attention of every head among the text tokens after the image, in the model and in its base.

    Attributes:
        lvlm, base: (layer, head, entry) fp32 on the CPU; the entries of a block's lower triangle, row by row.
        n_tokens: tokens to a side of a block.
    """

    lvlm: Tensor
    base: Tensor
    n_tokens: int

    def similarity(self) -> Tensor:
        """Cosine of the two blocks of each head, (layer, head); from 0 to 1, as attention is never negative."""
        return torch.cosine_similarity(self.lvlm, self.base, dim=-1)

    def heat_maps(self, heads: Sequence[Head]) -> Tensor:
        """Blocks in square cells of `tokens_per_cell` averaged tokens, (head, model, row, column), lvlm then base."""
        layers, within = map(list, zip(*heads, strict=True))
        entries = torch.stack([blocks[layers, within] for blocks in (self.lvlm, self.base)], dim=1)
        squares = entries.new_zeros(*entries.shape[:-1], self.n_tokens, self.n_tokens)
        rows, columns = torch.tril_indices(self.n_tokens, self.n_tokens)
        squares[..., rows, columns] = entries
        return avg_pool2d(squares, tokens_per_cell(self.n_tokens), ceil_mode=True)


def tokens_per_cell(n_tokens: int) -> int:
    """Side of a heat map's cell, in tokens, so that LARGEST_MAP cells are enough; the last cell may have fewer."""
    return -(-n_tokens // LARGEST_MAP)


def load_base(path: Path, lvlm: Lvlm) -> PreTrainedModel:
    """The language model that `lvlm` was tuned from, on its device and in its precision.

    Raises:
        ValueError: not a causal language model, layers or heads or hidden size differ, weights are missing, or the
            model has layers that attend to the image alone.
        OSError: no checkpoint there.
    """
    if lacking := heads_on_image_alone(lvlm.model):
        layers = sorted({head.layer for head in lacking})
        raise ValueError(f"layers {layers} attend to the image alone; a base language model has none to compare with")
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"--base-model {path}: no config.json there; expected a folder with a language model")
    model_type = read_json(path / "config.json").get("model_type")
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(f"--base-model {path}: model type {model_type!r} is no causal language model")
    check_files(path)
    config, expected = from_folder(AutoConfig, path), lvlm.model.config.get_text_config()
    for name in ("num_hidden_layers", "num_attention_heads", "hidden_size"):
        of_base, of_model = getattr(config, name, None), getattr(expected, name)
        if of_base != of_model:
            raise ValueError(f"--base-model {path}: {name} is {of_base}, that of the model is {of_model}; not its base")
    how = {"config": config, "dtype": lvlm.model.dtype, "attn_implementation": "sdpa", "output_loading_info": True}
    base, loading = from_folder(AutoModelForCausalLM, path, **how)
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"--base-model {path}: weights missing: {', '.join(missing[:5])}")
    return base.eval().to(input_device(lvlm.model))


def text_ids(batch: Batch, base: PreTrainedModel) -> Tensor:
    """What the base sees of a sample of one row: its token ids without those of the image, (1, position).

    Raises:
        ValueError: an id that the base has no embedding for, or a batch of several rows.
    """
    ids = batch.inputs["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"samples are compared one by one, not in a batch of {len(ids)}")
    ids = ids[~batch.image_mask][None]
    vocabulary = base.get_input_embeddings().num_embeddings
    if (largest := int(ids.max())) >= vocabulary:
        raise ValueError(f"token id {largest} is beyond the {vocabulary} ids of the base model; not this model's base")
    return ids


def check_vocabulary(teacher: TeacherForced, base: PreTrainedModel, entries: Sequence[dict]) -> None:
    """Refuse prompts and captions that the base cannot read, before the first image is loaded.

    Raises:
        ValueError: an id that the base has no embedding for.
    """
    for entry in entries:
        text_ids(teacher.lvlm.encode([None], [entry["prompt"]], [teacher.ids_of(entry)]), base)


def text_blocks(model: PreTrainedModel, base: PreTrainedModel, batch: Batch) -> TextBlocks:
    """Attention among the text tokens after the last image, in `model` and in `base`; one forward pass of each.

    Both see the same tokens, the base without those of the image: what stands before the image is in front of both
    and in neither block. Rows and columns are aligned by token. Without an image all tokens are in the blocks.

    Args:
        batch: one teacher-forced sample, not padded.
    Raises:
        ValueError: an id that the base has no embedding for, or a batch of several rows.
    Source: paper, figure 4.
    Differs: the released script lets the base read the text with a literal "<image>" in it and takes the last rows
        and columns of both, one fewer than there are tokens after the image: it counts them in a text of their own,
        where a BOS is added and the newline and a blank are lost.
    """
    ids = text_ids(batch, base)
    width = batch.image_mask.shape[1]
    n_tokens = int(after_last_image(batch.image_mask, width).sum()) if batch.image_mask.any() else width
    no_image = torch.zeros_like(ids, dtype=torch.bool)

    def blocks_of(heads: Sequence[int]) -> tuple[Tensor, Tensor]:
        of_model = causal_blocks(model, batch.inputs, batch.image_mask, n_tokens, heads)
        return of_model, causal_blocks(base, {"input_ids": ids}, no_image, n_tokens, heads)

    parts, _ = in_parts(blocks_of, range(model.config.get_text_config(decoder=True).num_attention_heads))
    return TextBlocks(*(torch.cat(blocks, dim=1) for blocks in zip(*parts, strict=True)), n_tokens)


@torch.no_grad()
def causal_blocks(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], image_mask: Tensor, n_last: int, heads: Sequence[int]
) -> Tensor:
    """Attention of each layer's `heads` among the last `n_last` tokens of one row, (layer, head, entry).

    Memory: the maps of one layer, head * position^2 numbers, are cut to the lower triangle of their block before the
    next layer runs; what is kept is layer * head * n_last * (n_last + 1) / 2 numbers. For LLaVA-1.5-7B and a caption
    of 128 tokens that is 63 MB and 50 MB in fp32.
    """
    modules = attention_modules(model)
    rows, columns = torch.tril_indices(n_last, n_last)
    kept: dict[int, Tensor] = {}
    with record(model, image_mask, maps=[(layer, head) for layer in modules for head in heads]) as trace:

        def keep_block(module: nn.Module, _args: Any, _output: Any) -> None:
            maps = trace.maps[module.layer_idx].pop()[0, :, -n_last:, -n_last:]  # head row column
            kept[module.layer_idx] = maps[:, rows.to(maps.device), columns.to(maps.device)].cpu()

        with hooked((module, keep_block) for module in modules.values()):
            model.base_model(**inputs, use_cache=False)
    return torch.stack([kept[layer] for layer in modules])


def split_heads(shape: tuple[int, int], hal_heads: Sequence[Head], non_hal_heads: Sequence[Head]) -> dict:
    """The heads of each group, `other_heads` being the rest of a model of (layer, head) `shape`.

    Raises:
        ValueError: a head in both lists, or no other heads.
    """
    chosen = [*hal_heads, *non_hal_heads]
    if twice := set(hal_heads) & set(non_hal_heads):
        raise ValueError(f"{min(twice)} is among the hallucination heads and among the others; lower --top-k")
    others = [Head(layer, head) for layer, head in np.ndindex(shape) if (layer, head) not in chosen]
    if not others:
        raise ValueError(f"the two lists name all {len(chosen)} heads of the model; lower --top-k")
    return {"hal_heads": list(hal_heads), "non_hal_heads": list(non_hal_heads), "other_heads": others}


def summarise(similarity: np.ndarray, groups: Mapping[str, Sequence[Head]]) -> dict:
    """Mean similarity of each group of heads, and of each head, JSON-ready.

    Args:
        similarity: (caption, layer, head).
        groups: what `split_heads` returns.
    Returns: {"groups": {name: {"mean", "interval", "heads"}}, "difference_same_layers": {"mean", "interval"},
        "similarity": [layer][head]}. The 95% bootstrap interval is over captions; the heads are fixed. The group
        `same_layers` and the difference are those of `compare_in_layers`, absent where that is empty.
    """
    values = similarity.astype(np.float64)
    by_caption = np.stack([values[:, *np.transpose(heads)].mean(1) for heads in groups.values()])  # group caption
    means, intervals = (numbers.T.tolist() for numbers in mean_with_interval(by_caption.T, RESAMPLES))
    of_groups = {
        name: {"mean": mean, "interval": {"mean": interval}, "heads": [list(head) for head in heads]}
        for (name, heads), mean, interval in zip(groups.items(), means, intervals, strict=True)
    }
    hal_heads = groups["hal_heads"]
    rest = rest_of_layers(values.shape[1:], hal_heads, groups["non_hal_heads"])
    if compared := compare_in_layers(values, hal_heads, rest):
        of_groups["same_layers"] = compared.pop("same_layers") | {"heads": [list(head) for head in rest]}
    return {"groups": of_groups, **compared, "similarity": values.mean(0).tolist()}
