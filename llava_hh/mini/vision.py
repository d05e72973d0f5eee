"""mini's vision tower: a small CLIP vision model, trained to name the object whose centre lies in each patch."""

import random
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from tqdm import trange
from transformers import CLIPVisionConfig, CLIPVisionModel

from llava_hh.files.files import replacing
from llava_hh.mini.world import CATEGORIES, IMAGE_PIXELS, render, sample_scene

PATCH = 24
PATCHES = (IMAGE_PIXELS // PATCH) ** 2
BACKGROUND = len(CATEGORIES)
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25
STEPS, BATCH, LEARNING_RATE = 1000, 32, 2e-3


def vision_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=IMAGE_PIXELS,
        patch_size=PATCH,
    )


def patch_head() -> torch.nn.Linear:
    """Patch feature -> logits over CATEGORIES and the background."""
    return torch.nn.Linear(vision_config().hidden_size, len(CATEGORIES) + 1)


def patch_features(tower: CLIPVisionModel, pixels: torch.Tensor) -> torch.Tensor:
    """(image, channel, y, x) -> (image, patch, feature): the last layer without the class token."""
    return tower(pixel_values=pixels).last_hidden_state[:, 1:]


def labelled_batch(rng: random.Random, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Evaluation-like scenes: pixels (image, channel, y, x) and classes (image, patch)."""
    labels = torch.full((size, PATCHES), BACKGROUND)
    pixels = []
    for row in range(size):
        scene = sample_scene(rng, together=0.45)
        image, boxes = render(scene, rng)
        pixels.append(np.asarray(image))
        for category, (x, y, width, height) in zip(scene.shown, boxes, strict=True):
            column, line = int(x + width / 2) // PATCH, int(y + height / 2) // PATCH
            labels[row, line * (IMAGE_PIXELS // PATCH) + column] = CATEGORIES.index(category)
    values = torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    return (values - PIXEL_MEAN) / PIXEL_STD, labels


def train_vision_tower(out: Path, seed: int = 1) -> None:
    """Train tower and patch head together (about 4 minutes on 2 cores) and save both, in half precision, to `out`."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tower, head = CLIPVisionModel(vision_config()), patch_head()
    parameters = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS)
    weight = torch.tensor([3.0] * BACKGROUND + [1.0])
    for step in (bar := trange(STEPS, desc="vision tower")):
        pixels, labels = labelled_batch(rng, BATCH)
        logits = head(patch_features(tower, pixels))
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            there = labels < BACKGROUND
            right = (logits.argmax(-1) == labels).float()
            bar.set_postfix(objects=f"{right[there].mean():.1%}", background=f"{right[~there].mean():.1%}")
    out.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{name}.{key}": t for name, part in (("tower", tower), ("head", head)) for key, t in part.state_dict().items()
    }
    with replacing(out) as part:
        save_file({key: t.half().contiguous() for key, t in tensors.items() if t.is_floating_point()}, part)


def load_vision_tower(path: Path) -> tuple[CLIPVisionModel, torch.nn.Linear]:
    """The trained tower and its patch head, fp32, frozen."""
    tensors = load_file(path)
    tower, head = CLIPVisionModel(vision_config()), patch_head()
    for name, part in (("tower", tower), ("head", head)):
        mine = {key.removeprefix(f"{name}."): t.float() for key, t in tensors.items() if key.startswith(f"{name}.")}
        missing = [
            key for key in part.load_state_dict(mine, strict=False).missing_keys if not key.endswith("position_ids")
        ]
        if missing:
            raise ValueError(f"{path}: weights missing: {', '.join(missing)}")
        part.requires_grad_(False).eval()
    return tower, head
