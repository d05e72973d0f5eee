"""Result folders that tests compare, made by the scripts themselves on the tiny checkpoint."""

import json
from pathlib import Path

import pytest

from llava_hh.scripts import caption
from tests.support.verbs import compare_runs, score_chair

LIMIT = 8


class Runs:
    """Makes result folders on the tiny checkpoint by the scripts themselves."""

    def __init__(self, checkpoint: Path, coco: Path, heads: Path, root: Path) -> None:
        self.checkpoint, self.coco, self.heads, self.root = checkpoint, coco, heads, root

    def caption(self, name: str, *more: object) -> Path:
        flags = ["--model", self.checkpoint, "--image-folder", self.coco / "val2014", "--limit", LIMIT]
        flags += ["--annotations", self.coco / "annotations", "--max-new-tokens", 8, "--batch-size", 4]
        caption.main([str(flag) for flag in [*flags, "--out", self.root / name, *more]])
        return self.root / name

    def evaluate(self, folder: Path, *more: object) -> Path:
        flags = ["--captions", folder / "captions.jsonl", "--annotations", self.coco / "annotations", *more]
        score_chair([str(flag) for flag in flags])
        return folder

    def make(self, name: str, *more: object) -> Path:
        return self.evaluate(self.caption(name, *more))

    def edited(self, name: str, *more: object) -> Path:
        return self.make(name, "--method", "removal:top_k=2", "--heads", self.heads, *more)


def compared(tmp_path: Path, *flags: object) -> dict:
    out = tmp_path / "comparison.json"
    compare_runs([str(flag) for flag in (*flags, "--out", out)])
    return json.loads(out.read_text())


def refusals(capsys: pytest.CaptureFixture, *flags: object) -> list[str]:
    """The parts of the error with which the script stops."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        compare_runs([str(flag) for flag in flags])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    return error[error.index("error: ") + len("error: ") :].strip().split("; and ")


def sentences_of(folder: Path) -> list[dict]:
    return json.loads((folder / "captions_eval_results.json").read_text())["sentences"]


def chair_i(entries: list[dict]) -> float:
    wrong = sum(len(entry["mscoco_hallucinated_words"]) for entry in entries)
    mentions = wrong + sum(len(entry["mscoco_non_hallucinated_words"]) for entry in entries)
    return wrong / mentions if mentions else 0.0


def recall(entries: list[dict]) -> float:
    found = sum(len({node for _, node in entry["mscoco_non_hallucinated_words"]}) for entry in entries)
    return found / sum(len(entry["mscoco_gt_words"]) for entry in entries)
