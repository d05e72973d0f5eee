"""What `python -m tests.faults` found: the table of docs/faults.md, made of benchmarks/faults/seed*.json."""

import json
from pathlib import Path

from llava_hh.files.tables import Table

WHAT = {
    "kills": "signal 9 at random moments of 16 long scripts, three times a run; the result equals an undisturbed run's",
    "damages": "20 kinds of files, damaged by hypothesis: the work is done, or one line names the file",
    "images": "images that are sound, cut off, damaged, of other kinds and sizes, missing, outside the folder",
    "disk": "a disk that fills up, files of limited size",
    "lock": "commands in one folder, one after another and all at once",
    "clock": "the time of day jumps back and forth",
    "training": "checkpoint files of a fine-tuning that are missing, cut, damaged, swapped, renamed or of another run; "
    "then the bytes of an undisturbed run, or one line",
    "state": "one change between two runs: weights, tokenizer, images, annotations, heads, captions, flags, blocks; "
    "then the bytes of a fresh folder, or one line that names the change; nothing is lost",
    "ranks": "two processes that differ in flags, variables or files, do not share their folder, or lose each other: "
    "nothing wrong is merged, and one process continues",
    "code": "pickles, archives, auto_map, kernels, templates and profiles that carry code: it never runs",
    "signals": "Ctrl-C, SIGTERM, SIGHUP at random: one line, 128 + its number, no half file; the command continues",
    "environment": "variables, limits, closed streams, encodings, odd folder names: as undisturbed, "
    "or one line before any work",
    "foreign": "files, links and folders of others under names of a run: none is changed, followed or deleted",
    "wrappers": "shells, folders, links, variables and profiles: the calls are those of plain surroundings",
    "report": "a damaged, foreign or hostile file among results: the page is written without its part",
}


def table(folder: Path) -> Table:
    """One row a section, over all seeds that lie in the folder."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("seed*.json"))]
    rows = []
    for section in runs[0]["counts"]:
        tried = {sum(run["counts"][section].values()) for run in runs}
        failed = [sum(failure["section"] == section for failure in run["failures"]) for run in runs]
        rows.append([section, " or ".join(map(str, sorted(tried))), ", ".join(map(str, failed)), WHAT[section]])
    seeds = ", ".join(str(run["seed"]) for run in runs)
    total = [sum(sum(own.values()) for own in run["counts"].values()) for run in runs]
    minutes = ", ".join(f"{run['seconds'] / 60:.0f}" for run in runs)
    dates = " and ".join(sorted({run["run"]["date"][:10] for run in runs}))
    note = (
        f"Seeds {seeds}: {min(total):,} cases each, in {minutes} minutes, {runs[0]['jobs']} sections at a time. "
        f"On {dates}, CPU, {runs[0]['run']['machine']}."
    )
    return Table(["section", "cases of a seed", f"failed, seeds {seeds}", "what"], rows, note)
