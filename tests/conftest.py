"""Session-wide models and batches; tests never change a model, they open contexts on it."""

from pathlib import Path

import pytest
import torch
from tiny import TinyBatch, llava_batch, tiny_llava
from tiny_checkpoint import save_tiny_checkpoint, write_tiny_coco
from tiny_results import make_results
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


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in COCO 2014 layout, train2014 and val2014 of 14 drawn images each."""
    folder = tmp_path_factory.mktemp("coco")
    write_tiny_coco(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_results(tiny_checkpoint: Path, tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results of the tiny checkpoint; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("all") / "results" / "tiny"
    make_results(tiny_checkpoint, tiny_coco, folder)
    return folder


@pytest.fixture(scope="session")
def mini_path() -> Path:
    """mini's assembled checkpoint; bash_scripts/test.sh makes it."""
    path = Path(__file__).parents[1] / "checkpoints" / "mini" / "model"
    if not path.exists():
        pytest.skip("mini is not assembled: sh bash_scripts/mini/checkpoint.sh")
    return path
