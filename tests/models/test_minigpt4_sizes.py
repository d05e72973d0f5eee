"""MiniGPT-4: sizes of the published model, and images that do not fill their placeholders."""

import pytest
import torch

from llava_hh.models.minigpt4_model import MiniGpt4Config, MiniGpt4ForConditionalGeneration
from tests.support.repository import ROOT
from tests.support.tiny_minigpt4 import (
    tiny_minigpt4,
)


def test_sizes_of_the_published_model():
    config = MiniGpt4Config.from_pretrained(ROOT / "checkpoints/minigpt4")
    assert set(config.parts) == {"language_model", "vision_tower", "projector"}
    assert config.image_length == 64
    vision = config.vision_config
    assert (vision.num_hidden_layers, vision.hidden_size, vision.num_attention_heads) == (39, 1408, 16)
    assert vision.intermediate_size == int(1408 * 4.3637) and vision.layer_norm_eps == 1e-6
    assert config.prompt == "harness"
    with torch.device("meta"):
        shapes = {name: tuple(own.shape) for name, own in MiniGpt4ForConditionalGeneration(config).state_dict().items()}
    assert shapes["model.llama_proj.weight"] == (4096, 5632)
    assert shapes["model.vision_tower.embeddings.position_embedding"] == (1, 257, 1408)
    assert shapes["lm_head.weight"] == (32000, 4096)


@pytest.mark.parametrize("n_kv", [4, 2], ids=["mha", "gqa"])
def test_images_must_fill_the_placeholders(n_kv, batch):
    inputs = batch.inputs | {"pixel_values": batch.inputs["pixel_values"][1:]}
    with pytest.raises(ValueError, match="12 image features for 16 image positions"):
        tiny_minigpt4(n_kv=n_kv)(**inputs)
