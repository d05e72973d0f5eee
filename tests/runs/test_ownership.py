"""A run overwrites and deletes what runs of this package wrote, and nothing else."""

import ast
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llava_hh.files import locks
from llava_hh.files.files import is_ours, write_json, write_text
from llava_hh.files.schema import SCHEMA_VERSION
from llava_hh.finetuning.checkpoints import drop_checkpoints, last_whole_checkpoint, write_manifest
from llava_hh.mini import dataset
from llava_hh.runs.blocks import Run
from llava_hh.runs.run import make_folder, make_parent, start_run
from tests.support.repository import ROOT
from tests.support.seeded import Seeded

SAMPLES = [{"image_id": number} for number in range(4)]
COCO = {"info": {"year": 2014}, "images": [], "annotations": [], "categories": []}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def work(folder: Path, samples: list[dict] = SAMPLES) -> list[dict]:
    with start_run(folder, Seeded()) as run:
        for number, block in run.blocks(samples, 2, "test"):
            run.finish_block(number, block, [{"square": sample["image_id"] ** 2} for sample in block])
        run.write_rows("rows.jsonl")
        return run.finished_rows()


def test_files_of_macos_bind_no_folder(tmp_path):
    (tmp_path / "._captions.jsonl").write_bytes(b"\x00\x05\x16\x07")
    make_folder(tmp_path)


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
def test_a_lock_that_is_a_link_leaves_its_target_alone(make, tmp_path):
    """A folder of results can come from elsewhere, in an archive."""
    thesis, folder = tmp_path / "thesis", tmp_path / "out"
    thesis.write_text("process of writing, for years")
    folder.mkdir()
    make(folder / locks.LOCK, thesis)
    with (
        pytest.raises(OSError, match=r"\.lock: a link, or not the lock of a run; delete it"),
        start_run(folder, Seeded()),
    ):
        pass
    assert thesis.read_text() == "process of writing, for years"
    assert [path.name for path in folder.iterdir()] == [locks.LOCK]


def test_what_else_is_called_lock(tmp_path):
    for name, make in (("pipe", os.mkfifo), ("folder", os.mkdir), ("yarn", lambda path: path.write_text("yarn 1"))):
        path = tmp_path / name / locks.LOCK
        path.parent.mkdir()
        make(path)
        with (
            pytest.raises(OSError, match=r"\.lock: a link, or not the lock of a run"),
            start_run(path.parent, Seeded()),
        ):
            pass
        assert path.exists()
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / locks.LOCK).symlink_to(tmp_path / "new")
    with pytest.raises(OSError, match=r"\.lock: a link"), start_run(tmp_path / "dangling", Seeded()):
        pass
    assert not (tmp_path / "new").exists()


OTHERS = ["20240101.jpg", "00001 (1).json", "1a.json", "00001.json.bak", "1.json", "000001.json", "0001.safetensors"]


def test_blocks_of_others_stay_and_are_named_in_one_line(tmp_path, capsys):
    squares = work(tmp_path)
    for name in (*OTHERS, "00002.json", "00009.safetensors"):
        (tmp_path / "blocks" / name).write_bytes((tmp_path / "blocks" / "00001.json").read_bytes())
    (tmp_path / "blocks" / "00003.json").mkdir()
    capsys.readouterr()
    assert work(tmp_path) == squares == [{"square": number**2} for number in range(4)]
    left = sorted(path.name for path in (tmp_path / "blocks").iterdir())
    assert left == sorted([*OTHERS, "00000.json", "00001.json", "00002.json", "00003.json", "00009.safetensors"])
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert f"{tmp_path}/blocks: '000001.json', '00001 (1).json', " in warnings[0]
    assert warnings[0].endswith("and 3 more: no run of ours wrote it; left alone")


def test_blocks_are_in_order_of_number(tmp_path):
    run = Run(tmp_path)
    for number in (100_000, 99_999, 2):
        run.finish_block(number, [{"image_id": number}], [{"number": number}], {"number": np.ones(1)})
    assert [row["number"] for row in run.finished_rows()] == [2, 99_999, 100_000]
    assert len(list(run.finished_arrays())) == 3


@pytest.mark.parametrize(
    "name", ["captions.jsonl", "summary.md", "captions.png", "curves.pdf", "ablations.safetensors"]
)
def test_a_run_does_not_begin_among_the_results_of_others(name, tmp_path):
    (tmp_path / name).write_text("mine")
    (tmp_path / "notes.json").write_text("{}")
    for begin in (make_folder, lambda folder: start_run(folder, Seeded()).__enter__()):
        with pytest.raises(FileExistsError, match=f"--out {tmp_path}: {name} is there, and no run of ours wrote it"):
            begin(tmp_path)
    assert contents(tmp_path) == {name: b"mine", "notes.json": b"{}"}


def test_a_run_goes_on_in_its_own_folder_and_in_older_ones(tmp_path):
    """Also where its run.json was deleted, as its own error advises, and among files of other kinds."""
    (tmp_path / "console.log").write_text("mine")
    work(tmp_path)
    (tmp_path / "rows.jsonl").write_text("damaged")
    work(tmp_path)
    (tmp_path / "run.json").unlink()
    assert len(work(tmp_path)) == 4
    old = tmp_path / "old"
    old.mkdir()
    (old / "result.json").write_text(json.dumps({"run": {"commit": None}}))
    (old / "result.png").touch()
    make_folder(old)


def test_json_and_pages_say_whose_they_are(tmp_path):
    ours = {"a": {"run": {}}, "b": {"argv": [], "settings": {}}, "c": {"image_ids": [], "rows": []}}
    theirs = {"d": COCO, "e": [{"run": {}}], "f": {"run": 5}, "g": {"settings": {}}, "h": {"files": [], "images": []}}
    for name, content in (ours | theirs).items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        assert is_ours(path) == (name in ours)
        if name in theirs:
            with pytest.raises(FileExistsError, match=f"{name}.json: is there already, and no run of ours wrote it"):
                write_json(path, {"run": {}})
            assert json.loads(path.read_text()) == content
        else:
            write_json(path, {"run": {"new": 1}})
            assert json.loads(path.read_text()) == {"schema_version": SCHEMA_VERSION, "run": {"new": 1}}
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere")
    (tmp_path / "index.html").write_text("<title>My page</title>")
    for name in ("link.json", "index.html"):
        with pytest.raises(FileExistsError):
            write_text(tmp_path / name, "{}")


def test_a_table_or_picture_beside_a_new_result_is_not_overwritten(tmp_path):
    (tmp_path / "summary.png").write_text("mine")
    with pytest.raises(FileExistsError, match=r"summary\.png: is there without summary\.json"):
        make_parent(tmp_path / "summary.json")
    make_parent(tmp_path / "other.json")
    write_json(tmp_path / "summary.json", {"run": {}})
    make_parent(tmp_path / "summary.json")


def test_mini_leaves_sets_of_others_alone(tmp_path, monkeypatch):
    small = (dataset.Split("tune", 2, 1_000_000, 0.5, is_told=True), dataset.Split("val2014", 2, 3_000_000, 0.5))
    monkeypatch.setattr(dataset, "SPLITS", small)
    coco = tmp_path / "coco"
    for kind in ("captions", "instances"):
        folder = coco / kind / "annotations"
        folder.mkdir(parents=True)
        (folder / f"{kind}_val2014.json").write_text(json.dumps(COCO))
        with pytest.raises(FileExistsError, match=f"{kind}_val2014.json: is there already and not mini's"):
            dataset.write_missing_splits(folder.parent)
        assert json.loads((folder / f"{kind}_val2014.json").read_text()) == COCO
    for together in (0.5, 0.6, 0.6):
        monkeypatch.setattr(dataset, "SPLITS", tuple(replace(split, together=together) for split in small))
        dataset.write_missing_splits(tmp_path / "own")
        made = json.loads((tmp_path / "own" / "annotations" / "captions_tune.json").read_text())
        assert made["info"]["partners_together"] == together
        told = json.loads((tmp_path / "own" / "instruct_tune.json").read_text())
        assert [row["id"] for row in told] == ["1000000", "1000001"]


def test_checkpoints_of_a_training_and_nothing_else_are_deleted(tmp_path):
    """Also through a link to a larger disk."""
    disk, link = tmp_path / "disk", tmp_path / "checkpoints"
    for name in ("checkpoint-2", "checkpoint-10", "checkpoint-12 (1)", "checkpoint-best"):
        (disk / name).mkdir(parents=True)
        write_manifest(disk / name, "settings", int(name.split("-")[1]) if name[-1].isdigit() else 12)
    link.symlink_to(disk)
    assert last_whole_checkpoint(link) == link / "checkpoint-10"
    drop_checkpoints(link)
    assert sorted(path.name for path in disk.iterdir()) == ["checkpoint-12 (1)", "checkpoint-best"]
    (tmp_path / "other" / "checkpoint-3").mkdir(parents=True)
    drop_checkpoints(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_nothing_is_written_or_deleted_but_through_these_doors():
    """Whoever opens a file to write, deletes or renames stands here, with what it may touch."""
    allowed = {
        "llava_hh/files/parts.py",  # parts
        "llava_hh/files/files.py",  # a part takes its file's place
        "llava_hh/files/locks.py",  # the lock that it holds
        "llava_hh/attribution/summary.py",  # a part
        "llava_hh/runs/run.py",  # the mark of a process
        "llava_hh/finetuning/trainer.py",  # a run's log, and the manifest of its rows
        "llava_hh/finetuning/checkpoints.py",  # a run's checkpoints, by their names
        "llava_hh/mini/dataset.py",  # mini's own sets
        "llava_hh/data/coco.py",  # a damaged copy of ground truth
        "llava_hh/models/hub.py",  # weights of other content than the hub names, in its cache
        "llava_hh/models/conversion.py",  # the part of the folder that it writes
        "llava_hh/supplies/coco_archives.py",  # the part of a folder or file that it unpacks
        "llava_hh/supplies/download.py",  # what it fetched itself, by the ending of its name
        "llava_hh/supplies/fetching.py",  # the same
        "llava_hh/figures/style.py",  # the picture of an earlier result, by its name
    }
    writing = {"unlink", "rmtree", "rename", "write_bytes", "write_text", "touch", "rmdir", "removedirs"}
    for folder in ("llava_hh", "baselines", "newer_models"):
        for path in (ROOT / folder).rglob("*.py"):
            found = set()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in writing:
                    found.add(node.func.attr)
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("open", "os.open"):
                    modes = [arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant)]
                    if modes and set(str(modes[0])) & set("wax+"):
                        found.add("open")
            assert not found or str(path.relative_to(ROOT)) in allowed, f"{path}: {found}"
