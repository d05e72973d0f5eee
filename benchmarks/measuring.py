"""What all benchmarks share: the machine in words, ratios with their interval, time and peak memory of a process."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

from llava_hh.command_line.script import ScriptParser

REPO = Path(__file__).resolve().parents[1]
# A process starts with the peak memory of the one that forked it, so a small one stands between.
WATCH = """
import os, sys
_, status, usage = os.wait4(os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, *sys.argv[2:]]), 0)
with open(sys.argv[1], "w") as file:
    file.write(str(usage.ru_maxrss))
sys.exit(status != 0)
"""


def describe_machine() -> dict:
    gpu = torch.cuda.is_available()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if gpu else f"CPU {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def in_words(machine: Mapping) -> str:
    threads = f"{machine['cores']} cores, threads: {machine['threads']}, load {machine['load_average']}"
    versions = f"torch {machine['torch']}, transformers {machine['transformers']}"
    return f"{machine['date'][:10]}, {machine['device']}, {threads}, {versions}"


def ratio(of: Sequence[float], to: Sequence[float]) -> dict:
    """Median of the turns' ratios, with the lowest and the highest: of 5 turns they hold the true median at 94%."""
    ratios = [one / other for one, other in zip(of, to, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "turns": len(ratios)}


def show_ratio(found: Mapping) -> str:
    if found["turns"] == 1:
        return f"{found['median']:.2f}"
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def measure_process(command: Sequence[object], threads: int = 1) -> dict:
    """Seconds, largest resident memory (MiB) and output of one Python process.

    Raises:
        RuntimeError: it failed.
    """
    paths = os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": paths}
    begun = time.perf_counter()
    with tempfile.NamedTemporaryFile("r") as peak:
        watched = [sys.executable, "-S", "-c", WATCH, peak.name, *map(str, command)]
        done = subprocess.run(watched, cwd=REPO, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command[:4]))} failed")
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "peak_mib": int(peak.read()) / 1024, "output": done.stdout}


def finish(tables: str, content: Mapping, path: Path | None, note: str = "") -> None:
    """Print the tables with the machine below them, and write both as JSON where `path` is given."""
    machine = describe_machine()
    print(f"{tables}\n\n{in_words(machine)}{note and '; '}{note}.")
    if path:
        path.write_text(json.dumps({"machine": machine, **content}, indent=1) + "\n", encoding="utf-8")


def benchmark_parser(description: str) -> argparse.ArgumentParser:
    flags = ScriptParser(description)
    flags.add_argument("--json", type=Path, help="write the figures as JSON too")
    return flags
