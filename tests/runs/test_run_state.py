"""A run's folder whose state is not that of the run: blocks, arrays, records and scores of others are not taken."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from torch.distributed import TCPStore

from llava_hh.command_line.script import errors_in_one_line
from llava_hh.files.files import sha256, write_json
from llava_hh.runs.run import start_run
from llava_hh.runs.scored import refuse_stale
from tests.support.repository import ROOT
from tests.support.run_of_squares import SAMPLES, Squares, work


def without_digest(folder: Path) -> None:
    """Make blocks look like those of earlier versions."""
    for path in folder.glob("blocks/*.json"):
        block = json.loads(path.read_text())
        del block["settings_sha256"], block["arrays_sha256"], block["sha256"]
        path.write_text(json.dumps(block))


def test_without_its_run_json_a_folder_is_known_by_its_blocks(tmp_path):
    work(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"run\.json: not there, and .*00000\.json does not say"):
        work(tmp_path, Squares(seed=2))
    assert not (tmp_path / "run.json").exists()
    assert work(tmp_path, Squares(limit=7))[0] == []  # a free field


def test_blocks_of_earlier_versions_need_their_run_json(tmp_path):
    work(tmp_path)
    without_digest(tmp_path)
    assert work(tmp_path)[0] == []
    (tmp_path / "run.json").unlink()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"00000\.json does not say that it was made with these settings"):
            work(tmp_path)


@pytest.mark.parametrize("what", ["blocks/00001.json", "run.json"])
def test_a_file_of_another_run_does_not_mix_two(what, tmp_path):
    work(tmp_path / "own")
    work(tmp_path / "other", Squares(seed=2))
    shutil.copy(tmp_path / "other" / what, tmp_path / "own" / what)
    settings = Squares(seed=2 if what == "run.json" else 1)
    number = 0 if what == "run.json" else 1
    with pytest.raises(ValueError, match=rf"0000{number}\.json: made under other settings than those of this run"):
        work(tmp_path / "own", settings)


def test_arrays_of_another_run_are_made_anew(tmp_path):
    work(tmp_path)
    arrays = tmp_path / "blocks" / "00001.safetensors"
    whole = arrays.read_bytes()
    shutil.copy(tmp_path / "blocks" / "00000.safetensors", arrays)
    assert work(tmp_path)[0] == [1]
    assert arrays.read_bytes() == whole


def test_images_that_come_and_go(tmp_path):
    """A block that left an image out is done again when it is there; a change of one that it used is refused."""
    image, done = tmp_path / "image.png", []

    def finish() -> None:
        with start_run(tmp_path / "run", Squares()) as run:
            for number, block in run.blocks(SAMPLES, 7, "test", lambda sample: image):
                done.append(number)
                rows = [dict(sample) for sample in block] if image.is_file() else []
                run.finish_block(number, block, rows, rows_of=[int(image.is_file())] * len(block))

    finish()
    finish()
    assert done == [0]
    image.write_bytes(b"1")
    finish()
    finish()
    assert done == [0, 0]
    image.write_bytes(b"2")
    with pytest.raises(ValueError, match=r"image\.png: changed since"):
        finish()
    image.unlink()
    with pytest.raises(ValueError, match=r"image\.png: not there any more.*; is --image-folder the right one"):
        finish()


@pytest.mark.parametrize(("n", "squares"), [(1, [0]), (2, [0, 1, 1]), (3, [0, 1, 1]), (6, [0, 1, 1, 4, 4, 4])])
def test_a_part_has_the_rows_of_its_samples(n, squares, tmp_path):
    """Samples of one image, with one row, two, none, or three."""
    samples, counts = [{"image_id": number // 2} for number in range(6)], [1, 2, 0, 3, 0, 0]
    squared = [0, 1, None, 4]

    def finish(samples: list[dict]) -> tuple[list[int], list[int]]:
        with start_run(tmp_path, Squares()) as run:
            for number, block in run.blocks(samples, 6, "test"):
                places = [place for place, count in enumerate(counts) for _ in range(count)]
                rows = [{"image_id": samples[place]["image_id"], "square": squared[place]} for place in places]
                arrays = {"squares": np.array([row["square"] for row in rows])}
                run.finish_block(number, block, rows, arrays, rows_of=counts)
            kept = np.concatenate([arrays["squares"] for arrays in run.finished_arrays()])
            return [row["square"] for row in run.finished_rows()], kept.tolist()

    assert finish(samples) == ([0, 1, 1, 4, 4, 4],) * 2
    assert finish(samples[:n]) == (squares,) * 2


def test_scores_of_captions_that_changed_are_refused(tmp_path):
    captions, result = tmp_path / "captions.jsonl", tmp_path / "captions_eval_results.json"
    captions.write_text("{}\n")
    write_json(result, {"run": {"sha256": {"elsewhere/captions.jsonl": sha256(captions), "/data/instances.json": "1"}}})
    refuse_stale(result, json.loads(result.read_text())["run"])
    captions.write_text("{}\n{}\n")
    with pytest.raises(
        ValueError, match=r"results\.json: captions\.jsonl beside it has changed since; run llava-hh score"
    ):
        refuse_stale(result, json.loads(result.read_text())["run"])


RANK = """
import json, sys
from dataclasses import dataclass
from pathlib import Path
from llava_hh.runs import run as runs
from llava_hh.command_line.script import errors_in_one_line
from llava_hh.runs.settings import Settings
@dataclass(frozen=True)
class Squares(Settings):
    seed: int = 1
    limit: int = 7
    def free(self):
        return {"limit": "the first so many"}
runs.SHARED_WITHIN = 0.5
with errors_in_one_line(False), runs.start_run(Path(sys.argv[1]), Squares(**json.loads(sys.argv[2]))):
    pass
"""


def ranks(folders: list[Path], settings: list[dict]) -> list[tuple[str, int]]:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    team = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(len(folders))}
    team |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "test", "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(folder), json.dumps(own)],
            cwd=ROOT,
            env={**os.environ, **team, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, (folder, own) in enumerate(zip(folders, settings, strict=True))
    ]
    return [(rank.communicate(timeout=120)[1], rank.returncode) for rank in started]


@pytest.mark.parametrize("other", [{"seed": 2}, {"limit": 3}])
def test_processes_agree_on_all_settings(other, tmp_path):
    """Also on those in which a run may go on: blocks are dealt by them."""
    for error, code in ranks([tmp_path, tmp_path], [{}, other]):
        assert code == 2
        [line] = [line for line in error.splitlines() if line.startswith("error")]
        assert "has other settings than process" in line and next(iter(other)) in line
    assert not list(tmp_path.iterdir())


def test_processes_see_that_they_do_not_share_a_folder(tmp_path):
    for error, code in ranks([tmp_path / "a", tmp_path / "b"], [{}, {}]):
        assert code == 2 and "not the same folder in all processes" in error
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


EARLY = "import time, llava_hh\nprint(flush=True)\ntime.sleep(0.5)" + RANK
LAUNCHER = """
import subprocess, sys
with open(sys.argv[2], "w") as file:
    rank = subprocess.Popen([sys.executable, "-c", *sys.argv[3:]], stdout=subprocess.PIPE, stderr=file)
    rank.stdout.readline()
"""


def test_a_launcher_that_dies_while_a_rank_begins_is_missed(tmp_path):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    team = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2", "RANK": "0"}
    team |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "test", "PYTHONPATH": str(ROOT)}
    errors = tmp_path / "errors"
    command = [sys.executable, "-c", LAUNCHER, "launcher", errors, EARLY, tmp_path / "run", "{}"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **team}, check=True)
    begun = time.monotonic()
    while "is gone" not in errors.read_text():
        assert time.monotonic() - begun < 60
        time.sleep(0.1)


@pytest.mark.parametrize("variables", [{"WORLD_SIZE": "2"}, {"RANK": "0"}, {"RANK": "2", "WORLD_SIZE": "2"}])
def test_what_a_launcher_never_says_is_one_line(variables, tmp_path, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped, errors_in_one_line(False), start_run(tmp_path, Squares()):
        pass
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: RANK=") and line.count("\n") == 1
