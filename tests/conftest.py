"""Session-wide models and batches; tests never change a model, they open contexts on it."""

import pytest
import torch
from tiny import TinyBatch, llava_batch, tiny_llava
from transformers import LlavaForConditionalGeneration

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mha_llava() -> LlavaForConditionalGeneration:
    return tiny_llava()


@pytest.fixture(scope="session")
def gqa_llava() -> LlavaForConditionalGeneration:
    return tiny_llava(n_kv=2, seed=1)


@pytest.fixture(scope="session", params=["mha", "gqa"])
def llava(request: pytest.FixtureRequest) -> LlavaForConditionalGeneration:
    return request.getfixturevalue(f"{request.param}_llava")


@pytest.fixture(scope="session")
def batch() -> TinyBatch:
    """Left-padded rows of four kinds: one image, two images, none, and an image that ends the prompt."""
    return llava_batch([[3, "image", 6], [2, "image", 3, "image", 4], [11], [5, "image"]])
