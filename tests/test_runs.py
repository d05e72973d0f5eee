"""A run's folder: blocks are skipped when finished, settings are held to, files are whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llava_hh.files import read_json
from llava_hh.runs import describe_model, start_run

ROOT = Path(__file__).parents[1]
SAMPLES = [{"image_id": number} for number in range(7)]


def work(folder, settings, samples=SAMPLES, stop_at=None):
    """Run blocks of 3; `stop_at` dies before that block is finished, as a kill would."""
    done = []
    with start_run(folder, settings) as run:
        for number, block in run.blocks(samples, 3, "test"):
            if number == stop_at:
                raise KeyboardInterrupt
            done.append(number)
            rows = [{"image_id": s["image_id"], "square": s["image_id"] ** 2} for s in block]
            run.finish_block(number, block, rows, {"ids": np.array([s["image_id"] for s in block])})
        run.write_rows("rows.jsonl")
        return done, run.finished_rows(), np.concatenate([a["ids"] for a in run.finished_arrays()])


def test_a_killed_run_goes_on_with_the_unfinished_blocks(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        work(tmp_path / "killed", {"seed": 1}, stop_at=2)
    assert not (tmp_path / "killed" / "rows.jsonl").exists()
    done, rows, ids = work(tmp_path / "killed", {"seed": 1})
    assert done == [2]
    assert [row["square"] for row in rows] == [0, 1, 4, 9, 16, 25, 36]
    assert ids.tolist() == list(range(7))
    work(tmp_path / "whole", {"seed": 1})
    for name in ("rows.jsonl", "blocks/00000.json", "blocks/00002.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_limit_keeps_the_blocks_that_are_the_same(tmp_path):
    work(tmp_path, {"limit": 7})
    done, rows, _ = work(tmp_path, {"limit": 4}, SAMPLES[:4])
    assert done == [1]  # the second block has one image now
    assert [row["image_id"] for row in rows] == [0, 1, 2, 3]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 4


def test_other_settings_are_refused_by_name(tmp_path):
    work(tmp_path, {"seed": 1, "prompt": "Describe."})
    with pytest.raises(ValueError, match=r"run\.json: .*prompt was 'Describe\.', is 'Look\.'"):
        work(tmp_path, {"seed": 1, "prompt": "Look."})


@pytest.mark.parametrize(
    "damage", ["{}", '{"settings": {}}', '{"settings": [], "seconds": 1}', '{"settings": {}, "seconds": "1"}']
)
def test_a_damaged_run_json_and_a_damaged_block_are_named(damage, tmp_path):
    work(tmp_path, {})
    whole = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(damage)
    with pytest.raises(ValueError, match=r"run\.json: not that of a run"):
        work(tmp_path, {})
    (tmp_path / "run.json").write_text(whole)
    (tmp_path / "blocks" / "00001.json").write_text('{"image_ids": [3, 4, 5]}')
    with pytest.raises(ValueError, match=r"00001\.json: not a finished block; delete it"):
        work(tmp_path, {})
    (tmp_path / "blocks" / "00001.json").unlink()
    assert work(tmp_path, {})[0] == [1]


def test_run_json_says_where_the_numbers_come_from(tmp_path):
    work(tmp_path, {"seed": 1})
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["settings"] == {"seed": 1}
    assert record["versions"]["torch"]
    assert record["seconds"] >= 0
    assert {"argv", "commit", "dirty", "machine", "date"} <= record.keys()


WITHOUT_GIT = {
    "none on PATH": "",
    "the checkout belongs to somebody else": 'echo "fatal: detected dubious ownership in repository" >&2; exit 128',
    "no checkout": 'echo "fatal: not a git repository" >&2; exit 128',
    "another repository, which does not know us": 'case "$*" in *ls-files*) exit 1;; *rev-parse*) echo 123;; esac',
    "a status that fails": 'case "$*" in *status*) exit 1;; *) echo 123;; esac',
}


@pytest.mark.parametrize("git", WITHOUT_GIT)
def test_without_git_a_run_goes_on(git, tmp_path):
    """The commit is null then, and whether files differ from it as well."""
    (tmp_path / "bin").mkdir()
    if WITHOUT_GIT[git]:
        (tmp_path / "bin" / "git").write_text(f"#!/bin/sh\n{WITHOUT_GIT[git]}\n")
        (tmp_path / "bin" / "git").chmod(0o755)
    (tmp_path / "captions.jsonl").write_text('{"image_id": 1, "text": "A dog."}\n')
    (tmp_path / "objects.jsonl").write_text('{"image_id": 1, "objects": ["dog"]}\n')
    command = [sys.executable, "-m", "llava_hh.scripts.evaluate_chair", "--captions", tmp_path / "captions.jsonl"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": str(tmp_path / "bin")}
    done = subprocess.run(
        [*command, "--objects", tmp_path / "objects.jsonl"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "captions_eval_results.json").read_text())["run"]
    assert run["commit"] == ("123" if "status" in git else None)
    assert run["dirty"] is None


def test_errors_name_the_file(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json: not JSON"):
        read_json(tmp_path / "bad.json")
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        describe_model(tmp_path)
