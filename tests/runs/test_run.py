"""A run's folder: blocks are skipped when finished, settings are held to, files are whole."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from llava_hh.files.files import read_json
from llava_hh.runs.identity import identify_checkpoint
from llava_hh.runs.run import MADE_BY, start_run
from tests.support.repository import ROOT
from tests.support.run_of_squares import SAMPLES, Squares, work


def test_a_killed_run_goes_on_with_the_unfinished_blocks(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        work(tmp_path / "killed", stop_at=2)
    assert not (tmp_path / "killed" / "rows.jsonl").exists()
    done, rows, ids = work(tmp_path / "killed")
    assert done == [2]
    assert [row["square"] for row in rows] == [0, 1, 4, 9, 16, 25, 36]
    assert ids.tolist() == list(range(7))
    work(tmp_path / "whole")
    for name in ("rows.jsonl", "blocks/00000.json", "blocks/00002.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_smaller_limit_reads_a_part_and_a_larger_one_goes_on(tmp_path):
    work(tmp_path / "whole")
    work(tmp_path / "part", samples=SAMPLES[:4])
    before = {path.name: path.read_bytes() for path in (tmp_path / "whole" / "blocks").iterdir()}
    done, rows, ids = work(tmp_path / "whole", Squares(limit=4), SAMPLES[:4])
    assert done == [] and [row["image_id"] for row in rows] == ids.tolist() == [0, 1, 2, 3]
    assert (tmp_path / "whole/rows.jsonl").read_bytes() == (tmp_path / "part/rows.jsonl").read_bytes()
    assert {path.name: path.read_bytes() for path in (tmp_path / "whole" / "blocks").iterdir()} == before
    assert work(tmp_path / "whole")[0] == []  # nothing was deleted
    done, rows, ids = work(tmp_path / "part")
    assert done == [1, 2] and ids.tolist() == list(range(7))  # the block that the limit had cut is done as a whole
    for name in ("rows.jsonl", *(f"blocks/{name}" for name in before)):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_number_of_a_whole_block_survives_a_smaller_limit(tmp_path):
    with start_run(tmp_path, Squares()) as run:
        for number, block in run.blocks(SAMPLES[:3], 3, "test"):
            rows = [{"image_id": sample["image_id"]} for sample in block]
            run.finish_block(number, block, rows, {"ids": np.arange(3)}, of_block={"sum": np.array(3)})
        list(run.blocks(SAMPLES[:2], 3, "test"))
        (arrays,) = run.finished_arrays()
        assert arrays["ids"].tolist() == [0, 1] and arrays["sum"] == 3


def test_seconds_are_null_until_all_is_written_and_then_the_sum(tmp_path, monkeypatch):
    """A finished run goes on with more images and is killed after its last block."""

    def dies(*_):
        raise KeyboardInterrupt

    def record() -> dict:
        return read_json(tmp_path / "run.json")

    work(tmp_path, samples=SAMPLES[:4])
    (tmp_path / "run.json").write_text(json.dumps({**record(), "seconds": 500.0}))
    for _ in range(2):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("llava_hh.runs.blocks.Run.write_rows", dies)
            work(tmp_path)
        assert (record()["seconds"], record()["seconds_before"]) == (None, 500.0)
    work(tmp_path)
    assert record()["seconds"] >= 500
    assert "seconds_before" not in record()


def test_other_settings_are_refused_by_name(tmp_path):
    work(tmp_path, Squares(prompt="Describe."))
    with pytest.raises(ValueError, match=r"run\.json: .*prompt was 'Describe\.', is 'Look\.'"):
        work(tmp_path, Squares(prompt="Look."))


@pytest.mark.parametrize(
    "damage", ["{}", '{"settings": {}}', '{"settings": [], "seconds": 1}', '{"settings": {}, "seconds": "1"}']
)
def test_a_damaged_run_json_and_a_damaged_block_are_named(damage, tmp_path):
    work(tmp_path)
    whole = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(damage)
    with pytest.raises(ValueError, match=r"run\.json: not that of a run"):
        work(tmp_path)
    (tmp_path / "run.json").write_text(whole)
    (tmp_path / "blocks" / "00001.json").write_text('{"image_ids": [3, 4, 5]}')
    with pytest.raises(ValueError, match=r"00001\.json: not a finished block; delete it"):
        work(tmp_path)
    block = json.loads((tmp_path / "blocks" / "00000.json").read_text())
    (tmp_path / "blocks" / "00001.json").write_text(json.dumps({**block, "sub_batch": "1"}))
    with pytest.raises(ValueError, match=r"00001\.json: damaged, its content is not what was written; delete it"):
        work(tmp_path)
    (tmp_path / "blocks" / "00001.json").unlink()
    assert work(tmp_path)[0] == [1]


def test_run_json_says_where_the_numbers_come_from(tmp_path):
    work(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["settings"] == {"seed": 1}
    assert record["made"] == [{**{name: record[name] for name in MADE_BY}, "blocks": [0, 1, 2]}]
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
    command = [sys.executable, "-m", "llava_hh", "score", "chair", "--captions", tmp_path / "captions.jsonl"]
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
        identify_checkpoint(tmp_path)
