"""LLaVA-1.5 in llava-hf's layout, and its weights by the names that original checkpoints have."""

import pytest
import torch

from llava_hh.models.lvlm import Lvlm, load_lvlm
from tests.support.tiny_llava15 import save_tiny_llava15
from tests.support.tiny_original import N_WORDS, original_weights


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Lvlm:
    """The model in llava-hf's layout."""
    folder = tmp_path_factory.mktemp("published") / "llava-1.5-tiny-hf"
    save_tiny_llava15(folder)
    return load_lvlm(folder)


@pytest.fixture(scope="module")
def weights(published) -> dict[str, torch.Tensor]:
    return original_weights(published.model, N_WORDS)
