"""Banks of random vectors for tiny models, and VTI's steering by loops."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn
from transformers import PreTrainedModel

from llava_hh.files.tensors import TENSORS_MARK
from llava_hh.heads import architecture


def encoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Of a LLaVA or a MiniGPT-4."""
    return model.model.vision_tower.encoder.layers


def n_tokens(model: PreTrainedModel) -> int:
    vision = model.config.vision_config
    return (vision.image_size // vision.patch_size) ** 2 + 1


def drawn_vectors(model: PreTrainedModel, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ones of the shapes that fit."""
    rng, layers = np.random.default_rng(seed), encoder_layers(model)
    text, vision = model.config.get_text_config(), model.config.vision_config
    shapes = {"text": (text.num_hidden_layers, text.hidden_size)}
    shapes["image"] = (len(layers), n_tokens(model), vision.hidden_size)
    return {name: rng.normal(0, 3, shape).astype(np.float32) for name, shape in shapes.items()}


def write_vectors(
    path: Path, model: PreTrainedModel, arrays: dict[str, np.ndarray], identity: dict | None = None
) -> Path:
    """A file as `prepare-vti` writes it, with little to say."""
    made = {"architecture": architecture(model.config), "settings": {"model": identity} if identity else {}}
    save_file(arrays, path, {TENSORS_MARK: json.dumps(made)})
    return path


def turned_by_loops(output: torch.Tensor, vectors: np.ndarray, alpha: float) -> torch.Tensor:
    """Every vector of an output (row, position, d), one by one; vectors (d) or (position, d)."""
    rows = []
    for row in output.double():
        turned = []
        for position, x in enumerate(row):
            v = torch.from_numpy(vectors if vectors.ndim == 1 else vectors[position]).double()
            if v.any():
                mixed = x / x.norm() + 0.1 * alpha * v / v.norm()
                x = x.norm() * mixed / mixed.norm()
            turned.append(x)
        rows.append(torch.stack(turned))
    return torch.stack(rows).to(output.dtype)


@contextmanager
def steered_by_loops(layers: Iterator[nn.Module], vectors: np.ndarray, alpha: float) -> Iterator[None]:
    """Steer the MLPs of layers while the block is open."""
    hooks = [
        layer.mlp.register_forward_hook(lambda _, args, output, own=own: turned_by_loops(output, own, alpha))
        for layer, own in zip(layers, vectors, strict=True)
    ]
    yield
    for hook in hooks:
        hook.remove()
