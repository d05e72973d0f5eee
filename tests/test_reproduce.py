"""reproduce.sh under clocks that jump: its record and its estimates stay sensible."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def reproduce(folder: Path, clock: str, record: str = "") -> tuple[list[str], list[str]]:
    """Run it with steps that do nothing; the lines it prints, and those of its record.

    Args:
        clock: an arithmetic expression in shell of the call's number n, what `date +%s` says.
    """
    binaries, results = folder / "bin", folder / "results"
    for path in (binaries, results):
        path.mkdir()
    for name, script in {
        "date": f"n=$(cat {folder}/n 2>/dev/null || echo 0)\nn=$((n + 1))\necho $n > {folder}/n\necho $(({clock}))",
        "python": "exit 0",
        "sh": "exit 0",
    }.items():
        (binaries / name).write_text(f"#!/bin/sh\n{script}\n")
        (binaries / name).chmod(0o755)
    (results / "reproduce.txt").write_text(record)
    profile = folder / "own.sh"
    profile.write_text(f". bash_scripts/profiles/llava-v1.5-7b.sh\nresult_path={results}\nmodel_path={folder}\n")
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "PROFILE": str(profile)}
    command = ["/bin/sh", ROOT / "bash_scripts/reproduce.sh"]
    environment["PYTHON"] = str(binaries / "python")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines(), (results / "reproduce.txt").read_text().splitlines()


def test_steps_are_timed_by_the_clock(tmp_path):
    """Two calls a step, 60 seconds apart."""
    said, record = reproduce(tmp_path, "n * 60")
    assert record[:4] == ["attribute begun", "attribute 60", "decoding begun", "decoding 60"]
    assert said[0].endswith("attribute (no estimate before the first step is done)")
    # attribute took 1 minute for mini's 14; decoding is 18 of mini's minutes, and all that are left are 137
    assert said[1].endswith("decoding (about 1 minutes; about 10 until the end)")


@pytest.mark.parametrize("clock", ["100000 - n * 60", "n % 2 * 1000"])
def test_a_clock_set_back_gives_no_time(clock, tmp_path):
    said, record = reproduce(tmp_path, clock)
    assert record[1::2] == [line.replace("begun", "finished") for line in record[::2]]
    assert all(line.endswith("(no estimate before the first step is done)") for line in said)


@pytest.mark.parametrize("damage", ["attribute -5000", "attribute 1e9 x", "attribute finished"])
def test_a_record_without_a_time_is_no_time(damage, tmp_path):
    """Negative seconds, as older versions left them after a clock was set back, count as finished alone."""
    said, record = reproduce(tmp_path, "n * 60", f"{damage}\n")
    assert said[0].endswith("attribute (finished before)")
    assert said[1].endswith("decoding (no estimate before the first step is done)")
    assert record[:3] == [damage, "attribute begun", "attribute finished"]
