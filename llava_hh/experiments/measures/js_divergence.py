"""How far instruction tuning moves every head's attention: its Jensen-Shannon divergence (paper, figure 5)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llava_hh.attention.hooks import record
from llava_hh.files.memory import in_parts
from llava_hh.heads import Head
from llava_hh.metrics.statistics import mean_with_interval
from llava_hh.models.checkpoint import load_config
from llava_hh.models.lvlm import Batch, Lvlm

RESAMPLES = 2000
PERCENTILES = (10, 50, 90)


def order_by_step(folders: Sequence[Path]) -> dict[int, Path]:
    """Checkpoint folders by step of tuning, ascending; the step is the number at the end of a folder's name.

    Raises:
        ValueError: a name without such a number, or two folders of one step.
    """
    found: dict[int, Path] = {}
    for folder in folders:
        number = re.search(r"\d+$", folder.name)
        if not number:
            raise ValueError(f"--checkpoints {folder}: its name must end in its step, such as checkpoint-500")
        step = int(number[0])
        if step in found:
            raise ValueError(f"--checkpoints {folder}: is of step {step}, as {found[step]} is")
        found[step] = folder
    return dict(sorted(found.items()))


def attention_shape(folder: Path) -> dict:
    """What two checkpoints must share for their attention to be compared, without reading weights.

    Raises:
        OSError: no checkpoint there.
    """
    config = load_config(folder)
    text = config.get_text_config()
    vision = getattr(config, "vision_config", None)
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
                where = f"--reference {reference}"
                raise ValueError(f"--checkpoints {folder}: {name} {value}; that of {where} is {expected[name]}")
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
    dtype, device = lvlm.model.dtype, lvlm.model.device
    inputs = {name: t.to(device, dtype if t.is_floating_point() else None) for name, t in batch.inputs.items()}
    heads = [Head(layer, head) for layer in layers for head in range(lvlm.n_heads)]
    with torch.inference_mode(), record(lvlm.model, batch.image_mask.to(device), maps=heads) as trace:
        lvlm.model.base_model(**inputs, use_cache=False)
    return {layer: maps for layer, (maps,) in trace.maps.items()}


def mean_divergence(reference: dict[int, Tensor], maps: dict[int, Tensor], real: Tensor) -> Tensor:
    """Mean over query rows of the divergence of two models' attention, nats, (layer, head) float64 on the CPU.

    Both dicts are emptied layer by layer.

    Args:
        reference, maps: as `record_maps` returns them, for a batch of one caption.
        real: (position,) bool, False at padding, whose rows are left out.
    """
    layers = []
    for layer in sorted(maps):
        own = maps.pop(layer)[0]
        rows = js_divergence(reference.pop(layer)[0].to(own.device), own)  # head query
        layers.append(rows[:, real.to(own.device)].mean(-1).cpu())
    return torch.stack(layers)


def divergence_of(reference: Lvlm, tuned: Lvlm, batch: Batch) -> tuple[Tensor, int | None]:
    """The divergence of every head on one caption, (layer, head); and of how many layers at once, None for all."""
    real = batch.inputs["attention_mask"][0].bool()
    parts, size = in_parts(
        lambda layers: mean_divergence(*(record_maps(lvlm, batch, layers) for lvlm in (reference, tuned)), real),
        range(reference.n_layers),
    )
    return torch.cat(parts), size


def summarise(divergences: Mapping[int, np.ndarray], heads: Mapping[str, Sequence[Head]]) -> dict:
    """Means with intervals, of the named groups and over all heads, by step; JSON-ready, nats.

    Args:
        divergences: by step, (caption, layer, head).
        heads: `hal_heads` and `non_hal_heads`; `difference` is the first minus the second on the same captions.
    """

    def summary(values: np.ndarray) -> dict:
        mean, interval = mean_with_interval(values, RESAMPLES)
        return {"mean": float(mean), "interval": {"mean": interval.tolist()}}

    steps = []
    for step, values in sorted(divergences.items()):
        groups = {name: values[:, *np.transpose(own)].mean(1) for name, own in heads.items()}  # caption
        of_heads = values.mean(0)  # layer head
        band = np.percentile(of_heads, PERCENTILES)
        steps.append(
            {
                "step": step,
                **{name: summary(own) for name, own in groups.items()},
                "difference": summary(groups["hal_heads"] - groups["non_hal_heads"]),
                "percentiles": {str(rank): float(value) for rank, value in zip(PERCENTILES, band, strict=True)},
                "all_heads": of_heads.tolist(),
            }
        )
    return {**{name: [list(head) for head in own] for name, own in heads.items()}, "n": len(values), "steps": steps}
