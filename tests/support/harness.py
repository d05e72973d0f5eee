"""The tasks of the harness as runs on the tiny data set: their flags, methods, files and folders."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from llava_hh.scripts import evaluate

HEADS = [[3, 1], [0, 2], [2, 2]]
N_TOKENS = 8
VCD, ADHH = "vcd_paper:alpha=2,noise_step=999", "adhh:top_k=2,threshold=0.05"


@dataclass(frozen=True)
class Harnessed:
    """A finished comparison by one task.

    Args:
        flags: all but --methods and --out.
        methods: what --methods was given; greedy decoding is there without being asked for.
        rows: the name of the file of rows that every method has, in its folder or below it.
        n_blocks: of all methods.
    """

    task: str
    flags: list[str]
    methods: list[str]
    out: Path
    result: str
    rows: str
    n_blocks: int

    @property
    def model(self) -> str:
        return self.flags[self.flags.index("--model") + 1]

    def evaluate(self, out: Path, *flags: object, methods: list[str] | None = None) -> None:
        evaluate.main([*self.flags, "--out", str(out), "--methods", *(methods or self.methods), *map(str, flags)])

    def read_result(self, out: Path | None = None) -> dict:
        return json.loads(((out or self.out) / self.result).read_text())

    def row_files(self, out: Path | None = None) -> dict[str, bytes]:
        """The bytes of every file of rows, by its path in the folder."""
        out = out or self.out
        return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob(self.rows)}


def run_task(
    task: str, flags: list[object], methods: list[str], out: Path, rows: str, result: str, n_blocks: int
) -> Harnessed:
    done = Harnessed(task, ["--task", task, *map(str, flags)], methods, out, result, rows, n_blocks)
    done.evaluate(out)
    return done


def flags_for(checkpoint: Path, coco: Path) -> list[object]:
    """The model and the images of val2014 with their annotations."""
    return ["--model", checkpoint, "--image-folder", coco / "val2014", "--annotations", coco / "annotations"]


def rows_in(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def token_ids(folder: Path) -> list[list[int]]:
    return [row["token_ids"] for row in rows_in(folder, "captions.jsonl")]


def one_line_error(flags: list[object], capsys: pytest.CaptureFixture) -> str:
    """The error with which the harness stops, which is the last line it prints and of status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        evaluate.main([str(flag) for flag in flags])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error
