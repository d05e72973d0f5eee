"""How far instruction tuning moves every head's attention: its Jensen-Shannon divergence (paper, figure 5)."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llava_hh.attention.hooks import record
from llava_hh.attention.modules import input_device
from llava_hh.attribution.captions import TeacherForced
from llava_hh.experiments.measures.same_layers import compare_in_layers, rest_of_layers, summarise_captions
from llava_hh.experiments.per_caption import Measured
from llava_hh.files.memory import in_parts
from llava_hh.heads import Head
from llava_hh.models.checkpoint import load_config
from llava_hh.models.lvlm import Batch, Lvlm

RANKS = ("10", "50", "90")  # of the percentiles


def order_by_step(folders: Sequence[Path]) -> dict[int, Path]:
    """Checkpoint folders by step of tuning, ascending; the step is the number at the end of a folder's name.

    Raises:
        ValueError: a name without such a number, or two folders of one step.
    """
    steps: dict[int, Path] = {}
    for folder in folders:
        number = re.search(r"\d+$", folder.name)
        if not number:
            raise ValueError(f"--checkpoints {folder}: its name must end in its step, such as checkpoint-500")
        if steps.setdefault(int(number[0]), folder) is not folder:
            raise ValueError(f"--checkpoints {folder}: is of step {int(number[0])}, as {steps[int(number[0])]} is")
    return dict(sorted(steps.items()))


def attention_shape(folder: Path) -> dict:
    """What two checkpoints must share for their attention to be compared, without reading weights.

    Raises:
        OSError: no checkpoint there.
    """
    config = load_config(folder)
    text, vision = config.get_text_config(), getattr(config, "vision_config", None)
    return {
        "layers": text.num_hidden_layers,
        "heads": text.num_attention_heads,
        "image token": getattr(config, "image_token_id", None),
        "image side": getattr(vision, "image_size", None),
        "patch side": getattr(vision, "patch_size", None),
    }


def check_same_shape(reference: Path, checkpoints: Sequence[Path]) -> dict:
    """The `attention_shape` that all share.

    Raises:
        ValueError: a checkpoint that differs from the reference.
        OSError: a folder without a checkpoint.
    """
    expected = attention_shape(reference)
    for folder in checkpoints:
        for name, value in attention_shape(folder).items():
            if value != expected[name]:
                that = f"that of --reference {reference} is {expected[name]}"
                raise ValueError(f"--checkpoints {folder}: {name} {value}; {that}")
    return expected


def js_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of distributions along the last dimension, nats, (..., key) -> (...), float64.

    From 0 for equal ones to ln 2 for disjoint ones.

    Source: the paper's figure 5.
    Differs: the released code adds 1e-8 to every probability; ours is exact, with 0 log 0 = 0, so keys that a causal
        row cannot see count for nothing.
    """
    p, q = p.double(), q.double()
    # Entropy is concave, so no term is negative, and equal rows give 0 to the last bit.
    return (torch.special.entr((p + q) / 2) - (torch.special.entr(p) + torch.special.entr(q)) / 2).sum(-1)


def record_maps(lvlm: Lvlm, batch: Batch, layers: Sequence[int]) -> dict[int, Tensor]:
    """Every head's attention on a batch by layer, (batch, head, query, key) fp32 each, on the layer's device."""
    dtype, device = lvlm.model.dtype, input_device(lvlm.model)
    inputs = {name: t.to(device, dtype if t.is_floating_point() else None) for name, t in batch.inputs.items()}
    heads = [Head(layer, head) for layer in layers for head in range(lvlm.n_heads)]
    with torch.inference_mode(), record(lvlm.model, batch.image_mask.to(device), maps=heads) as trace:
        lvlm.model.base_model(**inputs, use_cache=False)
    return {layer: maps for layer, (maps,) in trace.maps.items()}


def mean_divergence(reference: dict[int, Tensor], maps: dict[int, Tensor], real: Tensor) -> Tensor:
    """Mean over query rows of the divergence of two models' attention, nats, (layer, head) float64 on the CPU.

    Both dicts are emptied layer by layer.

    Args:
        reference, maps: what `record_maps` returns for a batch of one caption.
        real: (position,) bool, False at padding, whose rows are left out.
    """
    layers = []
    for layer in sorted(maps):
        of_layer = maps.pop(layer)[0]
        rows = js_divergence(reference.pop(layer)[0].to(of_layer.device), of_layer)  # head query
        layers.append(rows[:, real.to(of_layer.device)].mean(-1).cpu())
    return torch.stack(layers)


def measure_caption(teacher: TeacherForced, tuned: Callable[[], Lvlm], entry: dict) -> Measured:
    """Array `divergence`, (1, layer, head), of a checkpoint; both models' attention maps of the caption are in memory.

    Args:
        teacher: the reference, and how captions become its teacher-forced inputs; the checkpoint gets the same ids.
        tuned: loads the checkpoint.
    """
    lvlms = (teacher.lvlm, tuned())
    batch = teacher.prepare(entry)[-1]  # the target words of `prepare` need ids that spell the caption
    real = batch.inputs["attention_mask"][0].bool()
    parts, size = in_parts(
        lambda layers: mean_divergence(*(record_maps(lvlm, batch, layers) for lvlm in lvlms), real),
        range(teacher.lvlm.n_layers),
    )
    return Measured([{"image_id": entry["image_id"]}], {"divergence": torch.cat(parts).numpy()[None]}, size=size)


def summarise(divergences: Mapping[int, np.ndarray], heads: Mapping[str, Sequence[Head]]) -> dict:
    """Means with intervals, of the named groups and over all heads, by step; JSON-ready, nats.

    Args:
        divergences: by step, (caption, layer, head).
        heads: `hal_heads` and `non_hal_heads`; `difference` is the first minus the second on the same captions.
            `same_layers` and `difference_same_layers` are those of `compare_in_layers`, absent where that is empty.
    """
    shape = next(iter(divergences.values())).shape[1:]
    rest, steps = rest_of_layers(shape, **heads), []
    for step, values in sorted(divergences.items()):
        groups = {name: values[:, *np.transpose(group)].mean(1) for name, group in heads.items()}  # caption
        of_heads = values.mean(0)  # layer head
        band = map(float, np.percentile(of_heads, list(map(int, RANKS))))
        entry = {"step": step, **{name: summarise_captions(group) for name, group in groups.items()}}
        entry["difference"] = summarise_captions(groups["hal_heads"] - groups["non_hal_heads"])
        entry |= compare_in_layers(values, heads["hal_heads"], rest)
        steps.append(entry | {"percentiles": dict(zip(RANKS, band, strict=True)), "all_heads": of_heads.tolist()})
    listed = {**heads, "same_layers": rest} if rest else heads
    lists = {name: [list(head) for head in group] for name, group in listed.items()}
    return {**lists, "n": len(values), "steps": steps}
