"""Checkpoints of an interrupted fine-tuning, damaged in every way: the weights it would have had, or one line of error.

Never other weights with exit status 0.
"""

import gc
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoint import save_tiny_checkpoint, write_tiny_coco

from llava_hh.files import sha256
from llava_hh.finetuning.losses import TargetedModel
from llava_hh.mini.dataset import write_instructions
from llava_hh.scripts import targeted_finetune

from .children import Ending, run_to_the_end

HEADS = {"hal_heads": [[3, 1], [0, 2]]}
STEPS, DONE = 6, 4  # with a checkpoint every 2, and a row of log every 3
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


class Stopped(BaseException):
    """Ends a training between two steps, as a kill would."""


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


def run(folder: Path, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """The kinds of damage in turns, each of a file that is drawn."""
    own, log = folder / "training", folder / "log"
    flags = prepare(own, log)
    kinds = [*INTERRUPTED, *FINISHED]
    gc.freeze()  # children need not look through all that torch holds
    for number in range(n):
        kind = kinds[number % len(kinds)]
        before = own / ("finished" if kind in FINISHED else "interrupted")
        case = Case(own / "out", own / "other", random.Random(f"{seed}, training, {number}"))
        trouble = judge(kind, case, before, own / "undisturbed", flags, log)
        yield kind.__name__.strip("_").replace("_", " "), trouble and f"case {number}: {trouble}"


def prepare(folder: Path, log: Path) -> list[object]:
    """A training that ended, and ones that were interrupted; its flags without --out.

    Raises:
        RuntimeError: one failed; shows what it printed.
    """
    save_tiny_checkpoint(folder / "start")
    write_tiny_coco(folder / "coco")
    write_instructions(folder / "coco", "train2014")
    (folder / "heads.json").write_text(json.dumps(HEADS))
    data = ("--data", folder / "coco" / "instruct_train2014.json", "--image-folder", folder / "coco")
    flags = ["--model", folder / "start", "--heads", folder / "heads.json", "--top-k", 2, *data, "--batch-size", 2]
    flags += ["--steps", STEPS, "--save-every", 2, "--log-every", 3, "--max-length", 40, "--learning-rate", 1e-2]
    for name, main, more in (
        ("undisturbed", tune, ()),
        ("interrupted", interrupt, ()),
        ("other", interrupt, ("--seed", 1)),
    ):
        ending = run_to_the_end(main, (*flags, *more, "--out", folder / name), log)
        if ending.code:
            raise RuntimeError(f"{name}: {ending.output}")
    shutil.copytree(folder / "undisturbed", folder / "finished")
    return flags


def tune(flags: Sequence[str]) -> None:
    """Fine-tune, without the curves, which take longer than the tiny training."""
    with patch.object(targeted_finetune, "draw_finetuning"):
        targeted_finetune.main(flags)


def interrupt(flags: Sequence[str]) -> None:
    """Fine-tune as far as DONE steps."""
    whole, calls = TargetedModel.forward, count()

    def forward(self, *args, **kwargs):
        if next(calls) == DONE:
            raise Stopped
        return whole(self, *args, **kwargs)

    with patch.object(TargetedModel, "forward", forward), suppress(Stopped):
        tune(flags)


def judge(kind: "Kind", case: Case, before: Path, undisturbed: Path, flags: Sequence[object], log: Path) -> str | None:
    """What is wrong with a training that goes on in a copy of a damaged folder."""
    shutil.rmtree(case.out, ignore_errors=True)
    shutil.copytree(before, case.out)
    kind(case)
    return complain(run_to_the_end(tune, (*flags, "--out", case.out), log), case.out, undisturbed)


def complain(ending: Ending, out: Path, undisturbed: Path) -> str | None:
    if ending.code == 2 and ending.error.startswith("error: ") and "Traceback" not in ending.output:
        return None
    if ending.code:
        return f"exit {ending.code}: {' / '.join(ending.output.strip().splitlines()[-3:])[-400:]}"
    expected, found = contents(undisturbed), contents(out)
    unlike = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    return f"exit 0, and other bytes than undisturbed: {', '.join(unlike)}" if unlike else None


def contents(out: Path) -> dict[str, str]:
    """A digest of the log and of each file of the model."""
    files = [path for path in (out / "model").rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): sha256(path) for path in (*files, out / "log.jsonl") if path.exists()}


Kind = Callable[[Case], None]


def deleted(case: Case) -> None:
    case.file().unlink()


def cut(case: Case) -> None:
    _cut(case.file(), case.rng)


def _cut(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


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
