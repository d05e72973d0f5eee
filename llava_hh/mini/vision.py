"""mini's vision tower: a small CLIP vision model, trained to name the object whose centre lies in each patch."""

import random
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

from llava_hh.files.files import replacing
from llava_hh.files.progress import progress
from llava_hh.mini.world import CATEGORIES, CELL, IMAGE_PIXELS, render, sample_scene

PATCH = CELL
PATCHES = (IMAGE_PIXELS // PATCH) ** 2
BACKGROUND = len(CATEGORIES)
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25
STEPS, BATCH, LEARNING_RATE = 700, 32, 2e-3


def vision_config() -> CLIPVisionConfig:
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    return CLIPVisionConfig(**sizes, image_size=IMAGE_PIXELS, patch_size=PATCH)


def untrained_parts() -> torch.nn.ModuleDict:
    """The `tower`, and the `head` from a patch's feature to logits over CATEGORIES and the background."""
    tower = CLIPVisionModel(vision_config())
    return torch.nn.ModuleDict({"tower": tower, "head": torch.nn.Linear(tower.config.hidden_size, len(CATEGORIES) + 1)})


def patch_features(tower: CLIPVisionModel, pixels: torch.Tensor) -> torch.Tensor:
    """(image, channel, y, x) -> (image, patch, feature): the last layer without the class token."""
    return tower(pixel_values=pixels).last_hidden_state[:, 1:]


def labelled_batch(rng: random.Random, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Evaluation-like scenes: pixels (image, channel, y, x) and classes (image, patch)."""
    labels = torch.full((size, PATCHES), BACKGROUND)
    pixels = []
    for row in range(size):
        scene = sample_scene(rng, together=0.45)
        pixels.append(np.asarray(render(scene, rng)))
        for category, (x, y, width, height) in scene.annotated():
            column, line = int(x + width / 2) // PATCH, int(y + height / 2) // PATCH
            labels[row, line * (IMAGE_PIXELS // PATCH) + column] = CATEGORIES.index(category)
    return normalised(np.stack(pixels)), labels


def normalised(pixels: np.ndarray) -> torch.Tensor:
    """(image, y, x, channel) of 0 to 255 -> what the tower reads, (image, channel, y, x)."""
    return (torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255 - PIXEL_MEAN) / PIXEL_STD


def train_vision_tower(out: Path, seed: int = 1) -> None:
    """Train tower and patch head together (about 2 minutes on one core) and save both, in half precision, to `out`."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    parts = untrained_parts()
    optimizer = torch.optim.AdamW(parts.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS)
    weight = torch.tensor([3.0] * BACKGROUND + [1.0])
    for step in (bar := progress("vision tower", "step", range(STEPS))):
        pixels, labels = labelled_batch(rng, BATCH)
        logits = parts["head"](patch_features(parts["tower"], pixels))
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            shown, right = labels < BACKGROUND, (logits.argmax(-1) == labels).float()
            bar.set_postfix(objects=f"{right[shown].mean():.1%}", background=f"{right[~shown].mean():.1%}")
    out.parent.mkdir(parents=True, exist_ok=True)
    save_half({key: tensor for key, tensor in parts.state_dict().items() if tensor.is_floating_point()}, out)


def save_half(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors in half precision; the file appears complete or not at all."""
    with replacing(path) as part:
        save_file({key: tensor.detach().half().contiguous() for key, tensor in tensors.items()}, part)


def load_vision_tower(path: Path) -> tuple[CLIPVisionModel, torch.nn.Linear]:
    """The trained tower and its patch head, fp32, frozen.

    Raises:
        FileNotFoundError: no such file, as where the package was installed without a clone.
        ValueError: the file lacks weights.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: mini's vision tower is not there; a clone of the repository has it")
    parts = untrained_parts().requires_grad_(False).eval()
    tensors = {key: tensor.float() for key, tensor in load_file(path).items()}
    unread = parts.load_state_dict(tensors, strict=False).missing_keys
    if missing := [key for key in unread if not key.endswith("position_ids")]:
        raise ValueError(f"{path}: weights missing: {', '.join(missing)}")
    return parts["tower"], parts["head"]
