"""Damages of a fine-tuning's folder: of its checkpoints where it was interrupted, of its model where it ended."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

EARLIER, LAST = "checkpoints/checkpoint-2", "checkpoints/checkpoint-4"
STATE = (
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "trained_rows.safetensors",
    "log.jsonl",
    "since_log.json",
)


@dataclass(frozen=True)
class Case:
    """A folder of a training before the damage, and what is damaged in it.

    other: the folder of a training with another seed, as far as this one.
    """

    out: Path
    other: Path
    rng: random.Random

    def file(self, folder: str = LAST) -> Path:
        return self.out / folder / self.rng.choice(STATE)

    def model_file(self) -> Path:
        return self.rng.choice(sorted(path for path in (self.out / "model").iterdir() if path.is_file()))


Kind = Callable[[Case], None]


def deleted(case: Case) -> None:
    case.file().unlink()


def cut(case: Case) -> None:
    _cut(case.file(), case.rng)


def _cut(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(max(1, len(content)))])  # a log may be empty


def of_zero_bytes(case: Case) -> None:
    case.file().write_bytes(b"")


def spoilt(case: Case) -> None:
    """One bit is another."""
    path = case.file()
    content = bytearray(path.read_bytes())
    content[case.rng.randrange(len(content))] ^= 1 << case.rng.randrange(8)
    path.write_bytes(content)


def of_another_step(case: Case) -> None:
    path = case.file()
    shutil.copyfile(case.out / EARLIER / path.name, path)


def of_another_run(case: Case) -> None:
    """A file, or the whole checkpoint with its manifest."""
    if case.rng.random() < 0.5:
        path = case.file()
        shutil.copyfile(case.other / LAST / path.name, path)
    else:
        shutil.rmtree(case.out / LAST)
        shutil.copytree(case.other / LAST, case.out / LAST)


def of_another_shape(case: Case) -> None:
    _change_tensors(case, lambda tensor: tensor[: 1 if case.rng.random() < 0.5 else -1] if tensor.ndim else tensor)


def of_another_type(case: Case) -> None:
    _change_tensors(case, lambda tensor: tensor.half())


def _change_tensors(case: Case, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    if case.rng.random() < 0.5:
        path = case.out / LAST / "trained_rows.safetensors"
        save_file({name: change(tensor).contiguous() for name, tensor in load_file(path).items()}, path)
        return
    path = case.out / LAST / "optimizer.pt"
    content = torch.load(path, weights_only=True)
    for state in content["state"].values():
        state["exp_avg"] = change(state["exp_avg"])
    torch.save(content, path)


def manifest_missing(case: Case) -> None:
    (case.out / LAST / "manifest.json").unlink()
    if case.rng.random() < 0.7:
        case.file().unlink()


def manifest_damaged(case: Case) -> None:
    """Cut, emptied, or without a file that is then missing."""
    path = case.out / LAST / "manifest.json"
    kind = case.rng.choice(("cut", "empty", "without a file"))
    if kind == "cut":
        _cut(path, case.rng)
    elif kind == "empty":
        path.write_text(case.rng.choice(("", "{}", "[]", "null")))
    else:
        content, file = json.loads(path.read_text()), case.file()
        del content["files"][file.name]
        path.write_text(json.dumps(content))
        file.unlink()


def checkpoint_renamed(case: Case) -> None:
    """To a step that it is not of, maybe one that is not to be."""
    renamed = case.rng.choice((EARLIER, LAST))
    (case.out / renamed).rename(case.out / f"checkpoints/checkpoint-{case.rng.choice((1, 3, 5, 6, 7))}")


def copied_by_a_sync_service(case: Case) -> None:
    """Copies under names of its own, and one of the files is older, or away, or both are there."""
    path = case.file()
    shutil.copytree(case.out / EARLIER, case.out / f"{LAST} (1)")
    shutil.copyfile(case.out / EARLIER / path.name, path.with_stem(f"{path.stem} (1)"))
    kind = case.rng.choice(("away", "older", "both"))
    if kind == "away":
        path.unlink()
    elif kind == "older":
        path.with_stem(f"{path.stem} (1)").rename(path)


def trainer_state_emptied(case: Case) -> None:
    (case.out / LAST / "trainer_state.json").write_text(case.rng.choice(("{}", "null", '{"global_step": 0}')))


def log_damaged(case: Case) -> None:
    """The log of the run, not that of a checkpoint."""
    path = case.out / "log.jsonl"
    text = path.read_text()
    damaged = {"twice": text * 2, "noise": f"{text[:20]}\0\n{{}}\n{text[20:]}", "other": "[]\n", "cut": text[:-9]}
    kind = case.rng.choice(("deleted", *damaged))
    if kind == "deleted":
        path.unlink()
    else:
        path.write_text(damaged[kind])


def both_checkpoints(case: Case) -> None:
    """The training begins anew."""
    for folder in (EARLIER, LAST):
        _cut(case.file(folder), case.rng)


def cut_while_it_was_deleted(case: Case) -> None:
    """A kill between the files of a checkpoint, in any order."""
    files = sorted(path for path in (case.out / case.rng.choice((EARLIER, LAST))).iterdir())
    for path in case.rng.sample(files, case.rng.randint(1, len(files))):
        path.unlink()


def model_file_missing(case: Case) -> None:
    case.model_file().unlink()


def model_file_cut(case: Case) -> None:
    _cut(case.model_file(), case.rng)


def model_of_the_start(case: Case) -> None:
    shutil.copyfile(case.out.parent / "start" / "model.safetensors", case.out / "model" / "model.safetensors")


def model_deleted(case: Case) -> None:
    """And maybe the rows that it is written of are damaged too."""
    shutil.rmtree(case.out / "model")
    if case.rng.random() < 0.7:
        _cut(case.rng.choice(sorted((case.out / "trained").iterdir())), case.rng)


INTERRUPTED: tuple[Kind, ...] = (
    deleted,
    cut,
    of_zero_bytes,
    spoilt,
    of_another_step,
    of_another_run,
    of_another_shape,
    of_another_type,
    manifest_missing,
    manifest_damaged,
    checkpoint_renamed,
    copied_by_a_sync_service,
    trainer_state_emptied,
    log_damaged,
    both_checkpoints,
    cut_while_it_was_deleted,
)
FINISHED: tuple[Kind, ...] = (model_file_missing, model_file_cut, model_of_the_start, model_deleted)
