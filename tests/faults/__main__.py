"""Kills, damaged files, bad images, full disks: what a tool for runs of hours has to survive, on tiny models.

Every case ends well (the same files as an undisturbed run), or by one line `error: ...` that says what is wrong, with
nothing lost that was finished; never by a traceback, a hang or half a file. Prints the counts; exit status 1 if a case
failed. The same --seed draws the same kills and damages; the moment of a kill is only as exact as the machine.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from tqdm import tqdm

from . import code, damages, environment, files, folders, foreign, kills, pages, ranks, shell, signals, state, training

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
COUNTS = {"kills": 200, "damages": 500, "images": 300, "disk": 40, "lock": 20, "clock": 10}
COUNTS |= {
    "training": 60,
    "state": 120,
    "ranks": 40,
    "code": 40,
    "signals": 30,
    "foreign": 30,
    "environment": 60,
    "wrappers": 100,
    "report": 40,
}


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    flags.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    for name, count in COUNTS.items():
        flags.add_argument(f"--{name}", type=int, default=count, help="cases of this section")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--json", type=Path, help="write counts and failures to this file too")
    return flags


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # its thread would not survive a fork
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    counts: dict[str, Counter] = {name: Counter() for name in args.sections}
    failures = []
    begun = time.monotonic()
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
    print("| section | case | tried | failed |\n|---|---|---|---|")
    for section, own in counts.items():
        for name, tried in own.items():
            failed = sum(each["section"] == section and each["case"].endswith(name) for each in failures)
            print(f"| {section} | {name} | {tried} | {failed} |")
    total = sum(own.total() for own in counts.values())
    print(f"\n{total} cases, {len(failures)} failed, {time.monotonic() - begun:.0f} s")
    if args.json:
        args.json.write_text(json.dumps({"counts": counts, "failures": failures}, indent=1) + "\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
