"""A fine-tuning goes on from whole checkpoints alone, and a damaged model is not handed out as finished."""

import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from llava_hh.files.files import sha256
from llava_hh.files.parts import HOST
from llava_hh.files.processes import Processes
from llava_hh.finetuning import checkpoints
from llava_hh.finetuning.checkpoints import damage_of, last_whole_checkpoint, load_trained_rows, write_manifest
from llava_hh.finetuning.head_rows import TunedRows
from llava_hh.finetuning.losses import TargetedModel
from llava_hh.finetuning.trainer import resume_point
from tests.faults import training
from tests.faults.checkpoints import EARLIER, LAST, Case, cut_while_it_was_deleted, of_another_run


def checkpoint(folder: Path, step: int, settings: str = "of mine") -> Path:
    path = folder / f"checkpoint-{step}"
    for name in ("optimizer.pt", "pytorch_model_fsdp_0/__0_0.distcp"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(f"{name} after {step}")
    write_manifest(path, settings, step)
    return path


def edit_manifest(path: Path) -> None:
    content = json.loads((path / "manifest.json").read_text())
    del content["files"]["optimizer.pt"]
    (path / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: (path / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda path: (path / "optimizer.pt").write_text(""), "optimizer.pt is damaged"),
        (lambda path: shutil.rmtree(path / "pytorch_model_fsdp_0"), "pytorch_model_fsdp_0/__0_0.distcp is missing"),
        (lambda path: (path / "pytorch_model_fsdp_0/__0_0.distcp").write_text("x"), "__0_0.distcp is damaged"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing: it was not finished"),
        (lambda path: (path / "manifest.json").write_text(""), "manifest.json is damaged"),
        (edit_manifest, "manifest.json is damaged"),
    ],
)
def test_a_checkpoint_counts_only_as_a_whole(damage, reason, tmp_path):
    earlier, last = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    (last / "optimizer (1).pt").write_text("a sync program's copy decides nothing")
    assert last_whole_checkpoint(tmp_path) == last
    damage(last)
    passed = []
    assert last_whole_checkpoint(tmp_path, passed.append) == earlier
    assert len(passed) == 1 and passed[0].startswith(f"{last}: passed over, ") and reason in passed[0]


def test_checkpoints_of_other_steps_are_passed_over(tmp_path):
    checkpoint(tmp_path, 3).rename(tmp_path / "checkpoint-5")
    assert damage_of(tmp_path / "checkpoint-5", 5) == "it was renamed: its files are those of step 3"
    assert last_whole_checkpoint(tmp_path) is None


@pytest.mark.parametrize("file", ["manifest.json", "optimizer.pt"])
def test_a_file_that_cannot_be_read_stops_and_is_no_damage(file, tmp_path, monkeypatch):
    last, whole = checkpoint(tmp_path, 2), Path.read_bytes

    def failing(read):
        def fails(path, *args):
            if Path(path).name == file:
                raise OSError(5, "Input/output error", str(path))
            return read(path, *args)

        return fails

    monkeypatch.setattr(Path, "read_bytes", failing(whole))
    said = rf"{file}: cannot be read \(Input/output error\), .*; nothing was deleted"
    with pytest.raises(OSError, match=said) as error:
        damage_of(last, 2, failing(sha256))
    assert "\n" not in str(error.value)


def test_a_resume_deletes_nothing_and_a_new_checkpoint_replaces_the_damaged_one(tmp_path):
    """Checkpoints of later steps are no reason to delete the whole ones that a training goes on from."""
    for step in (2, 4, 6, 8):
        checkpoint(tmp_path, step)
    for step in (4, 6, 8):
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").write_text("")
    trainer = SimpleNamespace(
        args=SimpleNamespace(output_dir=tmp_path), log_file=tmp_path / "log.jsonl", recall=lambda _: None
    )
    assert resume_point(trainer).name == "checkpoint-2"
    assert [checkpoints.steps_of(path) for path in checkpoints.own_checkpoints(tmp_path)] == [8, 6, 4, 2]
    checkpoint(tmp_path, 4)
    checkpoints.drop_old_checkpoints(tmp_path, 4)
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-4"
    assert (tmp_path / "checkpoint-2").exists()


def test_a_linked_checkpoint_is_deleted_as_a_link(tmp_path):
    (tmp_path / "own").mkdir()
    checkpoint(tmp_path, 4)
    theirs = checkpoint(tmp_path / "theirs", 7)
    before = {path.name for path in theirs.iterdir()}
    (tmp_path / "own" / "checkpoint-7").symlink_to(theirs)
    checkpoints.drop_checkpoints(tmp_path / "own")
    assert not (tmp_path / "own").exists() and {path.name for path in theirs.iterdir()} == before


def test_what_a_kill_left_of_a_manifest_is_cleared_up(tmp_path):
    last = checkpoint(tmp_path, 2)
    (last / f".manifest.json.{HOST}.123.0123456789abcdef.part").touch()
    write_manifest(last, "of mine", 2)
    assert sorted(path.name for path in last.iterdir()) == ["manifest.json", "optimizer.pt", "pytorch_model_fsdp_0"]
    assert damage_of(last, 2) is None


def test_a_checkpoint_of_an_earlier_version_is_refused_and_not_deleted(tmp_path):
    old = checkpoint(tmp_path, 2)
    (old / "manifest.json").rename(old / "complete")
    with pytest.raises(ValueError, match=r"checkpoint-2: of an earlier version.*; finish .* or delete "):
        last_whole_checkpoint(tmp_path)
    assert (old / "optimizer.pt").exists()


def test_another_number_of_processes_is_said(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "processes", lambda: Processes(0, 2))
        last = checkpoint(tmp_path, 2)
    (last / "log.jsonl").write_text('{"step": 2}\n')
    recalled = []
    trainer = SimpleNamespace(
        args=SimpleNamespace(output_dir=tmp_path),
        log_file=tmp_path / "log.jsonl",
        recall=recalled.append,
    )
    assert [resume_point(trainer)] == recalled == [last]
    assert capsys.readouterr().err.startswith(f"warning: {last}: made by 2 processes, not 1; ")
    assert trainer.log_file.read_text() == '{"step": 2}\n'


@pytest.mark.parametrize(
    "rows", [{"q": torch.zeros(1, 4)}, {"q": torch.zeros(2, 4).half()}, {"k": torch.zeros(2, 4)}, {}]
)
def test_rows_of_another_shape_type_or_layer_are_refused(rows, tmp_path):
    save_file(rows, tmp_path / "trained_rows.safetensors")
    with pytest.raises(ValueError, match=r"trained_rows\.safetensors: .*; delete "):
        load_trained_rows({"q": TunedRows(nn.Linear(4, 3), [0, 2])}, tmp_path)


# --- whole trainings


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    flags = training.prepare(folder, folder / "log")
    (folder / "flags.json").write_text(json.dumps([str(flag) for flag in flags]))
    return folder


def go_on(folder: Path, before: str, damage=lambda out: None, *more: str) -> Path:
    """A training that goes on in a copy of a folder."""
    out = folder / "out"
    if before != "out":
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(folder / before, out)
    damage(out)
    training.tune([*json.loads((folder / "flags.json").read_text()), *more, "--out", str(out)])
    return out


def test_the_checkpoint_before_a_damaged_one_is_taken_and_no_pickle_loaded(folder, capsys, monkeypatch):
    loads, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **given: loads.append(given) or load(*args, **given))
    monkeypatch.setattr("llava_hh.finetuning.checkpoints.drop_checkpoints", lambda _: None)
    out = go_on(folder, "interrupted", lambda out: (out / LAST / "scheduler.pt").rename(out / LAST / "stray"))
    assert damage_of(out / LAST, 4) is None and not (out / LAST / "stray").exists()
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert warnings == [f"warning: {out / LAST}: passed over, scheduler.pt is missing"]
    assert training.contents(out) == training.contents(folder / "undisturbed")
    assert len(loads) >= 3 and all(given["weights_only"] is True for given in loads)


def test_a_training_without_a_whole_checkpoint_begins_anew_and_says_so(folder, capsys):
    def damage(out):
        for name in (EARLIER, LAST):
            (out / name / "trainer_state.json").write_text("")

    out = go_on(folder, "interrupted", damage)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 3
    assert warnings[2] == f"warning: {out / 'checkpoints'}: no whole checkpoint there; training begins anew"
    assert training.contents(out) == training.contents(folder / "undisturbed")


def test_a_damaged_model_is_an_error_and_is_written_anew_without_training(folder, capsys, monkeypatch):
    monkeypatch.setattr(TargetedModel, "forward", None)
    with pytest.raises(SystemExit) as stopped:
        go_on(folder, "finished", lambda out: (out / "model" / "model.safetensors").unlink())
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and error.startswith("error: ")
    assert "model: model.safetensors is missing; delete the folder" in error
    out = go_on(folder, "out", lambda out: shutil.rmtree(out / "model"))
    assert training.contents(out) == training.contents(folder / "undisturbed")


@pytest.mark.parametrize("before", ["interrupted", "finished"])
def test_work_of_other_settings_is_refused_and_left(before, folder, capsys, monkeypatch):
    """Also where run.json does not tell; a command with the settings of the work still goes on with it."""

    def record_of(run):
        return lambda out: shutil.copyfile(folder / run / "run.json", out / "run.json")

    with pytest.raises(SystemExit) as stopped:
        go_on(folder, before, record_of("other"), "--seed", "1")
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and "made with other settings; choose another --out" in error
    assert (folder / "out" / "log.jsonl").read_bytes() == (folder / before / "log.jsonl").read_bytes()
    monkeypatch.setattr("llava_hh.finetuning.run.resume_point", spy := Mock(wraps=resume_point))
    assert training.contents(go_on(folder, "out", record_of(before))) == training.contents(folder / "undisturbed")
    assert "passed over" not in capsys.readouterr().err and spy.called == (before == "interrupted")


@pytest.mark.parametrize("kind", [of_another_run, cut_while_it_was_deleted])
def test_a_sample_of_the_section_of_faults(kind, folder):
    assert judged(kind, folder) is None


def test_the_section_sees_a_training_that_trusts_its_checkpoints(folder, monkeypatch):
    monkeypatch.setattr(checkpoints, "damage_of", lambda *_: None)

    def optimizer_deleted(case):
        (case.out / LAST / "optimizer.pt").unlink()

    assert judged(optimizer_deleted, folder) == (
        "exit 0, and other bytes than undisturbed: log.jsonl, model/manifest.json, model/model.safetensors"
    )


def judged(kind, folder: Path) -> str | None:
    case = Case(folder / "out", folder / "other", random.Random(0))
    flags = json.loads((folder / "flags.json").read_text())
    return training.judge(kind, case, folder / "interrupted", folder / "undisturbed", flags, folder / "log")
