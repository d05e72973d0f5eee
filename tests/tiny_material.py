"""Tiny checkpoints, their base and their tuning, drawn images and a head list, for tests of whole scripts."""

import json
import shutil
from pathlib import Path

import torch
from tiny import IMAGE_TOKEN, tiny_llama
from tiny_checkpoint import save_polled_checkpoint, save_tiny_checkpoint, write_tiny_coco
from transformers import LlavaForConditionalGeneration

from llava_hh.mini.dataset import write_instructions

HEADS = {"hal_heads": [[3, 1], [0, 2], [2, 2]], "non_hal_heads": [[1, 0], [2, 1], [3, 3]]}


def make_material(folder: Path) -> None:
    """Everything that such scripts read, but for what other scripts make."""
    save_tiny_checkpoint(folder / "model")
    save_polled_checkpoint(folder / "model", folder / "polled")
    write_tiny_coco(folder / "coco")
    write_instructions(folder / "coco", "train2014")
    base = tiny_llama(n_kv=2, seed=7)
    base.resize_token_embeddings(IMAGE_TOKEN)
    base.save_pretrained(folder / "base")
    model = LlavaForConditionalGeneration.from_pretrained(folder / "model")
    with torch.no_grad():
        for weight in model.model.language_model.layers.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    shutil.copytree(folder / "model", folder / "tuning" / "step-20")
    model.save_pretrained(folder / "tuning" / "step-20")
    (folder / "heads.json").write_text(json.dumps(HEADS))
