"""Several processes under accelerate's launcher leave the bytes that one process leaves, also after one was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from torch.distributed import TCPStore

from llava_hh.scripts import attribute, caption
from tests.support.launching import finish, launch
from tests.support.repository import ROOT
from tests.support.verbs import score_chair

FILES = {
    "caption": ["captions.jsonl"],
    "attribute": ["targets.jsonl", "ablations.safetensors", "head_map.png"],
    "score_chair": ["captions_eval_results.json"],
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
    for name, verb in (("caption", caption.main), ("score_chair", score_chair), ("attribute", attribute.main)):
        captions = folders["score_chair"] if name == "attribute" else folders["caption"]
        verb(flags_of(name, tiny_checkpoint, tiny_coco, captions, folders[name]))
    return folders


def same_files(name: str, folder: Path, alone: dict[str, Path]) -> None:
    for file in FILES[name]:
        assert (folder / file).read_bytes() == (alone[name] / file).read_bytes(), file


def test_two_processes_leave_what_one_leaves(tiny_checkpoint, tiny_coco, alone, tmp_path):
    flags = flags_of("attribute", tiny_checkpoint, tiny_coco, alone["score_chair"], tmp_path)
    finish(launch(2, "llava_hh", ["attribute", *flags]))
    same_files("attribute", tmp_path, alone)


def test_three_processes_go_on_where_one_of_two_was_killed(tiny_checkpoint, tiny_coco, alone, tmp_path):
    flags = flags_of("caption", tiny_checkpoint, tiny_coco, alone["score_chair"], tmp_path)
    process = launch(2, "llava_hh", ["caption", *flags])
    while process.poll() is None and not list(tmp_path.glob("blocks/*1.json")):
        time.sleep(0.002)
    for child in psutil.Process(process.pid).children(recursive=True):
        if child.environ().get("RANK") == "1":
            child.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode
    assert not (tmp_path / FILES["caption"][0]).exists()
    n_done, n_all = (len(list(folder.glob("blocks/*.json"))) for folder in (tmp_path, alone["caption"]))
    assert 1 <= n_done < n_all
    finish(launch(3, "llava_hh", ["caption", *flags]))
    same_files("caption", tmp_path, alone)


def test_two_processes_share_an_evaluation(tiny_checkpoint, tiny_coco, alone, tmp_path):
    flags = flags_of("score_chair", tiny_checkpoint, tiny_coco, alone["caption"], tmp_path)
    output = finish(launch(2, "llava_hh", ["score", "chair", *flags]))
    assert output.count("CHAIR_i %") == 1  # only one of them reports


SHARE = """
import json, sys, time
from llava_hh.files.processes import processes
from llava_hh.runs.run import share_out
def work(items):
    seen.extend(items)
    return [{"text": "\\u00e9" * item} for item in items]
time.sleep(0.3 * processes().rank)
for size in map(int, sys.argv[1:]):
    seen = []
    found = share_out(range(size), work)
    assert found == [{"text": "\\u00e9" * item} for item in range(size)], found
    print(json.dumps(seen), flush=True)
"""


SHARES = {8: [[0, 1], [2, 3, 4], [5, 6, 7]], 2: [[], [0], [1]], 0: [[], [], []]}  # of three processes, by the number


def test_shares_are_put_together_in_order(tmp_path):
    """Every process computes its slice and hears of all of them; no file is left behind."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    environment |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "WORLD_SIZE": "3", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SHARE, *map(str, SHARES)],
            cwd=tmp_path,
            env={**environment, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, 0]
    of_ranks = [[json.loads(line) for line in text.splitlines()] for text in said]
    assert dict(zip(SHARES, map(list, zip(*of_ranks, strict=True)), strict=True)) == SHARES
    assert not list(tmp_path.iterdir())
