"""One finished comparison of each task of the harness; tests that change its folder copy it."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llava_hh.scripts import caption
from tests.support.harness import ADHH, HEADS, N_TOKENS, VCD, Harnessed, flags_for, run_task
from tests.support.launching import finish, launch
from tests.support.slow_losses import PROMPT
from tests.support.tiny_checkpoint import save_polled_checkpoint
from tests.support.verbs import score_chair

LOSS_HEADS = [[0, 1], [1, 2], [2, 0], [3, 3]]


def write_heads(folder: Path, heads: list) -> Path:
    path = folder / "heads.json"
    path.write_text(json.dumps({"hal_heads": heads}))
    return path


@pytest.fixture(scope="session")
def heads(tmp_path_factory) -> Path:
    return write_heads(tmp_path_factory.mktemp("heads"), HEADS)


@pytest.fixture(scope="session")
def tuned(tiny_checkpoint, tmp_path_factory) -> list[Path]:
    """Two other checkpoints of the same shape."""
    folders = []
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp("tuned") / "model"
        shutil.copytree(tiny_checkpoint, folder)
        tensors = load_file(folder / "model.safetensors")
        name = next(key for key in tensors if key.endswith("layers.3.mlp.down_proj.weight"))
        tensors[name] = tensors[name].flip(0).roll(seed, 1).contiguous()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    return folders


@pytest.fixture(scope="session")
def polled(tiny_checkpoint, tmp_path_factory) -> Path:
    """The tiny checkpoint with words for yes and no, which it likes best."""
    folder = tmp_path_factory.mktemp("polled") / "model"
    save_polled_checkpoint(tiny_checkpoint, folder)
    return folder


@pytest.fixture(scope="session")
def scored_captions(tiny_checkpoint, tiny_coco, tmp_path_factory) -> Path:
    """CHAIR of greedy captions with the prompt of the reference losses."""
    out = tmp_path_factory.mktemp("greedy")
    flags = [*flags_for(tiny_checkpoint, tiny_coco), "--limit", 5, "--batch-size", 2, "--prompt", PROMPT]
    caption.main([str(flag) for flag in [*flags, "--max-new-tokens", 6, "--out", out]])
    score_chair(["--captions", str(out / "captions.jsonl"), "--annotations", str(tiny_coco / "annotations")])
    return out / "captions_eval_results.json"


@pytest.fixture(scope="session")
def chair_run(tiny_checkpoint, tiny_coco, heads, tuned, tmp_path_factory) -> Harnessed:
    """Captions of decoders, of an intervention and of two other checkpoints."""
    flags = [*flags_for(tiny_checkpoint, tiny_coco), "--heads", heads, "--limit", 6]
    flags += ["--max-new-tokens", N_TOKENS, "--batch-size", 2]
    methods = [VCD, "dola_repo:variant=textbook", "pai", ADHH, *(f'tfhh:path="{path}"' for path in tuned)]
    out = tmp_path_factory.mktemp("chair")
    return run_task("chair", flags, methods, out, "captions.jsonl", "summary.json", n_blocks=7 * 3)


@pytest.fixture(scope="session")
def pope_run(polled, tiny_coco, heads, tmp_path_factory) -> Harnessed:
    """Questions of the three kinds, 24 of each."""
    flags = [*flags_for(polled, tiny_coco), "--heads", heads, "--limit", 4, "--max-new-tokens", 3, "--batch-size", 5]
    methods = ["greedy", ADHH, "removal:top_k=2", "vcd_paper"]
    return run_task(
        "pope", flags, methods, tmp_path_factory.mktemp("pope"), "answers.jsonl", "pope.json", n_blocks=4 * 3 * 5
    )


@pytest.fixture(scope="session")
def loss_run(tiny_checkpoint, tiny_coco, scored_captions, tmp_path_factory) -> Harnessed:
    """Two reference captions of each image; the checkpoint of TF-HH has the model's own weights."""
    folder, same = tmp_path_factory.mktemp("loss"), tmp_path_factory.mktemp("same") / "model"
    shutil.copytree(tiny_checkpoint, same)
    flags = [*flags_for(tiny_checkpoint, tiny_coco), "--limit", 5, "--batch-size", 2, "--prompt", PROMPT]
    flags += ["--heads", write_heads(folder, LOSS_HEADS), "--captions-per-image", 2, "--max-new-tokens", 9]
    flags += ["--captions", f"greedy={scored_captions}"]
    methods = ["adhh:top_k=2,threshold=0.3", "removal:top_k=2", "random:draws=1,of=adhh", "random:draws=1,of=removal"]
    methods.append(f'tfhh:path="{same}"')
    return run_task("loss", flags, methods, folder / "out", "losses.jsonl", "reference_loss.json", n_blocks=6 * 3)


@pytest.fixture(scope="session", params=["chair", "pope", "loss"])
def run(request) -> Harnessed:
    """Each task's."""
    return request.getfixturevalue(f"{request.param}_run")


@pytest.fixture(scope="session")
def run_by_two(chair_run, pope_run, loss_run, tmp_path_factory) -> tuple[dict[str, Path], str]:
    """Each task's folder of two of its methods, made by two processes; and what these printed."""
    folder, commands = tmp_path_factory.mktemp("by_two"), []
    for done in (chair_run, pope_run, loss_run):
        methods = [text for text in done.methods if text.startswith(("vcd_paper", "adhh"))]
        commands.append(["evaluate", *done.flags, "--methods", *methods, "--out", str(folder / done.task)])
    (folder / "commands.json").write_text(json.dumps(commands))
    printed = finish(launch(2, "tests.support.in_a_row", [str(folder / "commands.json")]))
    return {done.task: folder / done.task for done in (chair_run, pope_run, loss_run)}, printed
