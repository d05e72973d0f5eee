"""Several processes under accelerate's launcher leave the bytes that one process leaves, also after one was killed."""

import signal
import time
from pathlib import Path

import psutil
import pytest
from launching import finish, launch

from llava_hh.runs import share_out
from llava_hh.scripts import attribute, caption, evaluate_chair

ROOT = Path(__file__).parents[1]
FILES = {
    "caption": ["captions.jsonl"],
    "attribute": ["targets.jsonl", "ablations.safetensors", "head_map.png"],
    "evaluate_chair": ["captions_eval_results.json"],
}


def flags_of(name: str, checkpoint: Path, coco: Path, captions: Path, out: Path) -> list[str]:
    data = ["--model", checkpoint, "--image-folder", coco / "train2014", "--out", out, "--batch-size", 1]
    if name == "caption":
        data += ["--annotations", coco / "annotations", "--split", "train2014", "--max-new-tokens", 10]
    elif name == "attribute":
        data += ["--captions", captions / "captions_eval_results.json", "--list-length", 5]
    else:
        data = ["--captions", captions / "captions.jsonl", "--annotations", coco / "annotations"]
        data += ["--out", out / "captions_eval_results.json"]
    return [str(each) for each in data]


@pytest.fixture(scope="module")
def alone(tiny_checkpoint, tiny_coco, tmp_path_factory) -> dict[str, Path]:
    """What one process leaves: a folder by script."""
    folders = {name: tmp_path_factory.mktemp(name) for name in FILES}
    for name, script in (("caption", caption), ("evaluate_chair", evaluate_chair), ("attribute", attribute)):
        captions = folders["evaluate_chair"] if name == "attribute" else folders["caption"]
        script.main(flags_of(name, tiny_checkpoint, tiny_coco, captions, folders[name]))
    return folders


def same_files(name: str, folder: Path, alone: dict[str, Path]) -> None:
    for file in FILES[name]:
        assert (folder / file).read_bytes() == (alone[name] / file).read_bytes(), file


@pytest.mark.parametrize("name", ["caption", "attribute"])
def test_two_processes_and_three_after_a_kill(name, tiny_checkpoint, tiny_coco, alone, tmp_path):
    captions = alone["evaluate_chair"]
    whole = tmp_path / "whole"
    finish(launch(2, f"llava_hh.scripts.{name}", flags_of(name, tiny_checkpoint, tiny_coco, captions, whole)))
    same_files(name, whole, alone)

    killed = tmp_path / "killed"
    flags = flags_of(name, tiny_checkpoint, tiny_coco, captions, killed)
    process = launch(2, f"llava_hh.scripts.{name}", flags)
    while process.poll() is None and not list(killed.glob("blocks/*1.json")):
        time.sleep(0.002)
    for child in psutil.Process(process.pid).children(recursive=True):
        if child.environ().get("RANK") == "1":
            child.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode
    assert not (killed / FILES[name][0]).exists()
    n_done, n_all = (len(list(folder.glob("blocks/*.json"))) for folder in (killed, whole))
    assert 1 <= n_done < n_all
    finish(launch(3, f"llava_hh.scripts.{name}", flags))
    same_files(name, killed, alone)


def test_two_processes_share_an_evaluation(tiny_checkpoint, tiny_coco, alone, tmp_path):
    flags = flags_of("evaluate_chair", tiny_checkpoint, tiny_coco, alone["caption"], tmp_path)
    output = finish(launch(2, "llava_hh.scripts.evaluate_chair", flags))
    assert output.count("CHAIR_i %") == 1  # only one of them reports


def test_shares_are_put_together_in_order(tmp_path, monkeypatch):
    """Ranks one after another, without waiting: each computes its slice, the last one finds all of them."""
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr("llava_hh.processes.Processes.wait", lambda self: None)
    seen = []

    def work(items):
        seen.append(list(items))
        return [item**2 for item in items]

    for rank in (1, 0, 2):
        monkeypatch.setenv("RANK", str(rank))
        try:
            results = share_out(range(8), work, tmp_path)
        except FileNotFoundError:
            continue
    assert seen == [[2, 3, 4], [0, 1], [5, 6, 7]]
    assert results == [number**2 for number in range(8)]
