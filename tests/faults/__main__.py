"""Kills, damaged files, bad images, full disks: what a tool for runs of hours has to survive, on tiny models.

Every case ends well (the same files as an undisturbed run), or by one line `error: ...` that says what is wrong, with
nothing lost that was finished; never by a traceback, a hang or half a file. Prints the counts; exit status 1 if a case
failed. The same --seed draws the same kills and damages; the moment of a kill is only as exact as the machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import torch
from tqdm import tqdm

from llava_hh.runs.run import provenance

from . import code, damages, environment, files, folders, foreign, kills, pages, ranks, shell, signals, state, training
from .planted import planted

SECTIONS = {
    "kills": kills.run,
    "damages": damages.run,
    "images": files.run,
    "disk": folders.disk,
    "lock": folders.lock,
    "clock": folders.clock,
    "training": training.run,
    "state": state.run,
    "ranks": ranks.run,
    "code": code.run,
    "signals": signals.run,
    "environment": environment.run,
    "foreign": foreign.run,
    "wrappers": shell.run,
    "report": pages.run,
}
COUNTS = {"kills": 200, "damages": 300, "images": 150, "disk": 40, "lock": 20, "clock": 10}
COUNTS |= {
    "training": 60,
    "state": 100,
    "ranks": 40,
    "code": 40,
    "signals": 30,
    "foreign": 30,
    "environment": 60,
    "wrappers": 100,
    "report": 40,
}


LONGEST = ("kills", "state", "ranks", "training", "damages", "signals", "report", "environment", "foreign", "code")
LONGEST += ("wrappers", "images", "disk", "lock", "clock")


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    flags.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    for name, count in COUNTS.items():
        flags.add_argument(f"--{name}", type=int, default=count, help="cases of this section")
    flags.add_argument(
        "--jobs", type=int, default=min(4, os.cpu_count() or 1), help="sections at a time, each in a process of its own"
    )
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument(
        "--planted", action="store_true", help="plant a fault of ours in each section, which has to be seen"
    )
    flags.add_argument("--json", type=Path, help="write counts and failures to this file too")
    return flags


def set_up() -> None:
    """One thread, so that children can be forked."""
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def here(args: argparse.Namespace) -> tuple[dict[str, dict[str, int]], list[dict]]:
    """The sections one after the other: how many cases of each kind, and what failed."""
    set_up()
    counts: dict[str, Counter] = {name: Counter() for name in args.sections}
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        for section in args.sections:
            n = getattr(args, section)
            with tqdm(total=n, desc=section, unit="case") as bar:
                for name, trouble in SECTIONS[section](Path(folder), n, args.seed):
                    counts[section][name.split(": ")[-1]] += 1
                    bar.update()
                    if trouble:
                        failures.append({"section": section, "case": name, "trouble": trouble})
                        tqdm.write(f"{section}, {name}: {trouble}")
    return counts, failures


def unseen(args: argparse.Namespace) -> list[str]:
    """The sections that do not see the fault planted in them within the number of their cases."""
    found = []
    with tempfile.TemporaryDirectory() as own:
        folder = Path(own)
        kills.prepare(folder)
        for section in args.sections:
            tried = SECTIONS[section](folder, getattr(args, section), args.seed)
            with planted(section, folder), closing(tried) as cases:
                seen = next((trouble for _, trouble in cases if trouble), None)
            print(f"{section}: {(seen or 'NOT SEEN')[:200]}", flush=True)
            found += [] if seen else [section]
    return found


def beside_each_other(args: argparse.Namespace) -> tuple[dict[str, dict[str, int]], list[dict]]:
    """The sections in processes of their own, --jobs at a time, the longest first."""

    def tried(section: str) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "counts.json"
            flags = ["--sections", section, f"--{section}", getattr(args, section), "--seed", args.seed, "--json", out]
            done = subprocess.run(
                [sys.executable, "-m", "tests.faults", *map(str, flags)], stdout=subprocess.DEVNULL, check=False
            )
            if not out.exists():
                raise RuntimeError(f"{section}: exit {done.returncode}")
            return json.loads(out.read_text())

    sections = sorted(args.sections, key=LONGEST.index)
    with ThreadPoolExecutor(args.jobs) as pool:
        found = dict(zip(sections, pool.map(tried, sections), strict=True))
    counts = {section: found[section]["counts"][section] for section in args.sections}
    return counts, [failure for section in args.sections for failure in found[section]["failures"]]


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if args.planted:
        set_up()
        sys.exit(bool(unseen(args)))
    begun = time.monotonic()
    counts, failures = (beside_each_other if min(args.jobs, len(args.sections)) > 1 else here)(args)
    print("| section | case | tried | failed |\n|---|---|---|---|")
    for section, own in counts.items():
        for name, tried in own.items():
            failed = sum(each["section"] == section and each["case"].split(": ")[-1] == name for each in failures)
            print(f"| {section} | {name} | {tried} | {failed} |")
    for failure in failures:
        print("\n{section}, {case}: {trouble}".format(**failure))
    total, seconds = sum(sum(own.values()) for own in counts.values()), round(time.monotonic() - begun)
    print(f"\n{total} cases, {len(failures)} failed, {seconds} s")
    if args.json:
        about = {"seed": args.seed, "jobs": args.jobs, "seconds": seconds, "run": provenance()}
        content = {**about, "counts": counts, "failures": failures}
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
