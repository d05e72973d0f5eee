"""Session-wide models and batches; tests never change a model, they open contexts on it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from tests.faults.material import Script, make_material, scripts, steps_before
from tests.support.compared_runs import Runs
from tests.support.hub_server import Hub, point_at, serving
from tests.support.tiny import TinyBatch, llava_batch, tiny_llava
from tests.support.tiny_checkpoint import save_tiny_checkpoint, write_tiny_coco
from tests.support.tiny_minigpt4 import tiny_minigpt4
from tests.support.tiny_results import make_results

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of mini's checkpoint are marked."""
    for item in items:
        if "mini_path" in getattr(item, "fixturenames", ()):
            item.add_marker("mini")


@pytest.fixture(scope="session")
def mha_llava() -> LlavaForConditionalGeneration:
    return tiny_llava()


@pytest.fixture(scope="session")
def gqa_llava() -> LlavaForConditionalGeneration:
    return tiny_llava(n_kv=2, seed=1)


@pytest.fixture(scope="session", params=["mha", "gqa"])
def llava(request: pytest.FixtureRequest) -> LlavaForConditionalGeneration:
    """LLaVA with and without grouped keys; MiniGPT-4 as well in tests marked by `also_of_minigpt4`."""
    family, _, keys = request.param.rpartition(" ")
    return tiny_minigpt4(n_kv={"mha": 4, "gqa": 2}[keys]) if family else request.getfixturevalue(f"{keys}_llava")


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


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server of repositories on the loopback, which this process asks; its cache is empty."""
    with serving() as server:
        point_at(server, tmp_path / "home", monkeypatch)
        yield server


@pytest.fixture(scope="session")
def mini_path() -> Path:
    """mini's assembled checkpoint, for tests marked `mini`."""
    path = Path(__file__).parents[1] / "checkpoints" / "mini" / "model"
    if not path.exists():
        pytest.skip("mini is not assembled: sh bash_scripts/mini/checkpoint.sh")
    return path


@pytest.fixture(scope="session")
def compared_session(tiny_checkpoint, tiny_coco, tmp_path_factory) -> tuple[Runs, Path, Path]:
    """A maker of runs, greedy decoding and decoding without two heads."""
    root = tmp_path_factory.mktemp("runs")
    heads = root / "heads.json"
    heads.write_text(json.dumps({"hal_heads": [[1, 2], [2, 0], [3, 1]]}))
    maker = Runs(tiny_checkpoint, tiny_coco, heads, root)
    return maker, maker.make("greedy"), maker.edited("zero")


@pytest.fixture
def made(compared_session, tmp_path) -> tuple[Runs, Path, Path]:
    """The same, what is made now in a folder of its own; the second run is a copy that may be changed."""
    maker, greedy, zero = compared_session
    own = Runs(maker.checkpoint, maker.coco, maker.heads, tmp_path)
    return own, greedy, Path(shutil.copytree(zero, tmp_path / "zero"))


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Script]:
    """Scripts with their flags, on tiny models, and captions that they read."""
    folder = tmp_path_factory.mktemp("material")
    make_material(folder)
    for step in steps_before(folder):
        step.main([str(flag) for flag in step.flags])
    return {script.name: script for script in scripts(folder)}
