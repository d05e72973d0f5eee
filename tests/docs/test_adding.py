"""docs/extending.md: every recipe is run as it stands, as a plug-in of the verbs; a method takes at most 20 lines."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT

TEXT = (ROOT / "docs" / "extending.md").read_text()
METHOD, METRIC, FAMILY = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def verb(tiny_checkpoint, tiny_coco, tmp_path):
    """Runs a verb with a recipe as its plug-in, in a process of its own; returns what it printed."""
    (tmp_path / "heads.json").write_text(json.dumps({"hal_heads": [[3, 1], [0, 2]]}))

    def run(recipe: str, name: str, *more: object, out: str = "out") -> str:
        (tmp_path / "mine.py").write_text(recipe)
        flags = ["--model", tiny_checkpoint, "--image-folder", tiny_coco / "val2014", "--limit", 4]
        flags += ["--annotations", tiny_coco / "annotations", "--max-new-tokens", 6, "--out", tmp_path / out, *more]
        command = [sys.executable, "-m", "llava_hh", name, "--plugin", tmp_path / "mine.py", *flags]
        done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]


def test_a_method_is_twenty_lines_and_is_compared_like_any_other(verb, tmp_path):
    code = [line for line in METHOD.splitlines() if line.strip() and not line.startswith('"""')]
    assert len(code) <= 20
    methods = ["unrepeated:penalty=1000", "unrepeated:penalty=0", "unrepeated+adhh:top_k=2,threshold=0.05"]
    printed = verb(METHOD, "evaluate", "--methods", *methods, "--heads", tmp_path / "heads.json")
    assert "| unrepeated (unrepeated:penalty=1000) |" in printed
    said = [row["token_ids"] for row in rows(tmp_path / "out" / "unrepeated-penalty=1000")]
    assert all(len(set(ids)) == len(ids) for ids in said)
    greedy = [row["token_ids"] for row in rows(tmp_path / "out" / "greedy")]
    assert [row["token_ids"] for row in rows(tmp_path / "out" / "unrepeated-penalty=0")] == greedy
    (combined,) = (tmp_path / "out").glob("unrepeated+adhh-*")
    settings = json.loads((combined / "run.json").read_text())["settings"]
    assert settings["decoder"]["name"] == "unrepeated" and settings["interventions"][0]["kind"] == "DeactivateText"


def test_a_metric_stands_in_the_table_with_interval_and_test(verb, tmp_path):
    printed = verb(METRIC, "evaluate", "--methods", "removal:top_k=2", "--heads", tmp_path / "heads.json")
    assert "ands %" in printed.splitlines()[1] + printed.splitlines()[0]
    methods = json.loads((tmp_path / "out" / "summary.json").read_text())["methods"]
    (removal,) = (entry for entry in methods.values() if entry["kind"] == "removal")
    words = [word for row in rows(tmp_path / "out" / "greedy") for word in row["text"].split()]
    assert methods["greedy"]["ands"] == pytest.approx(words.count("and") / len(words), abs=1e-4)
    assert len(methods["greedy"]["interval"]["ands"]) == 2 and 0 < removal["minus_greedy"]["ands"]["p"] <= 1


def test_a_family_is_loaded_in_the_place_of_ours(verb, tmp_path):
    verb(FAMILY, "caption", out="brief")
    verb('"""Nothing."""', "caption", "--prompt", "Please describe this image in detail. the dog", out="asked")
    verb('"""Nothing."""', "caption", out="plain")
    brief, asked, plain = ([row["token_ids"] for row in rows(tmp_path / name)] for name in ("brief", "asked", "plain"))
    assert brief == asked != plain


@pytest.mark.parametrize(
    ("content", "message"), [("1 +", "SyntaxError"), ("import llava_hh as hh; hh.nothing", "nothing")]
)
def test_a_plugin_that_fails_is_one_line(content, message, tmp_path):
    (tmp_path / "mine.py").write_text(content)
    flags = ["--model", "x", "--image-folder", "x", "--annotations", "x", "--out", tmp_path / "out"]
    command = [sys.executable, "-m", "llava_hh", "caption", "--plugin", tmp_path / "mine.py", *flags]
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.startswith(f"error: --plugin {tmp_path}/mine.py: ") and done.stderr.count("\n") == 1
