"""reproduce.sh with steps that do nothing and a clock that says what a test wants."""

import os
import subprocess
from pathlib import Path

from tests.support.repository import ROOT


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
    profile.write_text(f'inherit=llava-v1.5-7b\nresult_path="{results}"\nmodel_path="{folder}"\n')
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "PROFILE": str(profile)}
    command = ["/bin/sh", ROOT / "bash_scripts/reproduce.sh"]
    environment["PYTHON"] = str(binaries / "python")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines(), (results / "reproduce.txt").read_text().splitlines()
