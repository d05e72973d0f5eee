"""A sample of `python -m tests.faults`, and that it sees the faults it looks for."""

import json
import random
import subprocess
import sys

import pytest

from llava_hh.files.files import write_text
from llava_hh.runs.run import make_folder
from tests.faults import damages, kills
from tests.faults.__main__ import SECTIONS
from tests.faults.children import Ending, run_to_the_end
from tests.faults.material import Script
from tests.faults.planted import PLANTED
from tests.support.repository import ROOT


def test_a_sample_of_every_section(tmp_path):
    """In a process of its own, for it forks; samples of the others are below and in finetuning/test_checkpoints.py."""
    few = ["--kills", "2", "--damages", "10", "--images", "30", "--disk", "4", "--lock", "2", "--clock", "2"]
    few += ["--code", "3", "--foreign", "2", "--signals", "1", "--environment", "2", "--wrappers", "4", "--report", "2"]
    few += ["--state", "2", "--ranks", "2"]
    few += ["--sections", "kills", "damages", "images", "disk", "lock", "clock", "code", "foreign", "signals"]
    few += ["environment", "wrappers", "report", "state", "ranks"]
    command = [sys.executable, "-m", "tests.faults", "--jobs", "1", *few, "--json", str(tmp_path / "counts.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    content = json.loads((tmp_path / "counts.json").read_text())
    assert content["failures"] == []
    tried = {section: sum(own.values()) for section, own in content["counts"].items()}
    assert tried["kills"] >= 2 and tried["images"] == 30
    assert {section: count for section, count in tried.items() if section not in ("kills", "images")} == {
        "damages": 10,
        "disk": 4,
        "lock": 2,
        "clock": 2,
        "code": 3,
        "foreign": 2,
        "signals": 1,
        "environment": 2,
        "wrappers": 4,
        "report": 2,
        "state": 2,
        "ranks": 2,
    }


def test_every_section_has_a_fault_to_see():
    """`python -m tests.faults --planted` tries them, which takes two minutes; continuous integration runs it."""
    assert PLANTED.keys() == SECTIONS.keys()
    assert "tests.faults --planted" in (ROOT / ".ci" / "run").read_text()


def slow_main(loses: bool):
    """A script that writes ten files slowly; one that `loses` begins with a number where a kill left it."""

    def main(flags):
        import time
        from pathlib import Path

        out = Path(flags[-1])
        make_folder(out)  # clears up after kills
        done = len(list(out.glob("*.json")))
        for number in range(done, 10):
            time.sleep(0.01)
            write_text(out / f"{number}.json", json.dumps({"number": number - (done if loses else 0)}))

    return main


@pytest.mark.parametrize("loses", [True, False])
def test_a_script_that_goes_on_wrongly_is_seen(loses, tmp_path):
    script = Script("slow", slow_main(loses), ())
    out, log = tmp_path / "out", tmp_path / "log"
    expected, seconds = kills.undisturbed(script, out, log)
    assert len(expected) == 10
    rng, troubles, n_kills = random.Random(0), [], 0
    while n_kills < 6 or (loses and not any(troubles) and n_kills < 60):
        own, trouble = kills.kill_and_go_on(script, out, log, seconds, rng)
        n_kills += own
        troubles.append(trouble or kills.difference(expected, kills.contents(out, script)))
    assert {trouble and trouble.split(" ", 1)[1] for trouble in troubles} <= (
        {None, "has other bytes"} if loses else {None}
    )
    assert any(troubles) == loses


def test_files_that_differ_are_named(tmp_path):
    script = Script("any", print, (), unlike=("times/",))
    for name, text in (("a.json", '{"x": 1, "seconds": 2}'), ("times/b", "1"), ("c", "same")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = kills.contents(tmp_path, script)
    (tmp_path / "a.json").write_text('{"seconds": 3, "x": 1}')
    (tmp_path / "times/b").write_text("2")
    assert kills.difference(before, kills.contents(tmp_path, script)) is None
    (tmp_path / "a.json").write_text('{"x": 2}')
    assert kills.difference(before, kills.contents(tmp_path, script)) == "a.json has other bytes"
    (tmp_path / "a.json").unlink()
    assert kills.difference(before, kills.contents(tmp_path, script)) == "a.json is missing"
    assert kills.difference({}, before) == "a.json is left over"


def test_endings_are_judged(tmp_path):
    def judged(code: int, output: str) -> str | None:
        return damages.complain(Ending(code, output), tmp_path / "heads.json")

    assert judged(0, "") is None
    assert judged(2, "progress\nerror: x/heads.json: not JSON") is None
    assert "does not name the file" in judged(2, "error: not JSON")
    for code, output in ((1, "error: heads.json"), (-9, ""), (2, ""), (2, "Traceback ...\nerror: heads.json")):
        assert judged(code, output).startswith(f"exit {code}")

    def fails(_):
        raise KeyError("x")

    ending = run_to_the_end(fails, (), tmp_path / "log")
    assert ending.code == 1 and "Traceback" in ending.output and "KeyError: 'x'" in ending.output


def test_damages_are_many_and_the_same_for_a_seed():
    original = json.dumps({"hal_heads": [[1, 2], [3, 4]], "about": {"model": "x"}}).encode()
    drawn = damages.draw_damages(original, ".json", 60, seed=5)
    assert len(drawn) == len(set(drawn)) == 60 and original not in drawn
    assert drawn == damages.draw_damages(original, ".json", 60, seed=5)
    assert drawn != damages.draw_damages(original, ".json", 60, seed=6)

    def is_json(content: bytes) -> bool:
        try:
            return bool(json.loads(content)) or True
        except (ValueError, RecursionError):
            return False

    assert 20 < sum(map(is_json, drawn)) < 60
