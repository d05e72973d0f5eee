"""Checkpoints of an interrupted fine-tuning, damaged in every way: the weights it would have had, or one line of error.

Never other weights with exit status 0.
"""

import gc
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from unittest.mock import patch

from llava_hh.files.files import sha256
from llava_hh.finetuning.losses import TargetedModel
from llava_hh.scripts import finetune
from tests.support.instructions import write_instructions
from tests.support.tiny_checkpoint import save_tiny_checkpoint, write_tiny_coco

from .checkpoints import FINISHED, INTERRUPTED, Case, Kind
from .children import Ending, run_to_the_end

HEADS = {"hal_heads": [[3, 1], [0, 2]]}
STEPS, DONE = 6, 4  # with a checkpoint every 2, and a row of log every 3


class Stopped(BaseException):
    """Ends a training between two steps, as a kill would."""


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
    flags = flags_of(folder)
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


def flags_of(folder: Path) -> list[object]:
    data = ("--data", folder / "coco" / "instruct_train2014.json", "--image-folder", folder / "coco")
    flags = ["--model", folder / "start", "--heads", folder / "heads.json", "--top-k", 2, *data, "--batch-size", 2]
    flags += ["--steps", STEPS, "--save-every", 2, "--log-every", 3, "--max-length", 40, "--learning-rate", 1e-2]
    return flags


def tune(flags: Sequence[str]) -> None:
    """Fine-tune, without the curves, which take longer than the tiny training."""
    with patch("llava_hh.figures.finetuning.draw_finetuning"):
        finetune.main(flags)


def interrupt(flags: Sequence[str]) -> None:
    """Fine-tune as far as DONE steps."""
    whole, calls = TargetedModel.forward, count()

    def forward(self, *args, **kwargs):
        if next(calls) == DONE:
            raise Stopped
        return whole(self, *args, **kwargs)

    with patch.object(TargetedModel, "forward", forward), suppress(Stopped):
        tune(flags)


def judge(kind: Kind, case: Case, before: Path, undisturbed: Path, flags: Sequence[object], log: Path) -> str | None:
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
