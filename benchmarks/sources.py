"""Time of influence by source beside the plain sweep: whole heads with three sources, and with direct effects.

The ways take turns on the same sample of mini, at its first target and at six. By source a sweep carries four rows for
each head instead of one. Ratios are to the plain sweep of the same turn, the sample's forward pass included.
"""

import argparse
import statistics
from pathlib import Path

import torch
from attribution import MINI, Case, checkpoint_case, timed
from measuring import benchmark_parser, finish, ratio, show_ratio

from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.command_line.numbers import SIZE
from llava_hh.files.tables import markdown_table

THREE = ("image", "after", "answer")
WAYS = {"whole heads": {}, "and by source": {"sources": THREE}, "and direct effects": {"direct": True}}


def measure(case: Case, n_targets: int, repeats: int) -> list[dict]:
    """A row for each way; a run of each more warms up."""
    where = {"image_mask": case.image_mask, "answer_start": case.answer_start}
    of_targets = case.positions[:n_targets], case.target_ids[:n_targets]
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(repeats + 1):
        for name, way in WAYS.items():
            took, _ = timed(lambda way=way: ablate_every_head(case.model, case.inputs, *of_targets, **where, **way))
            if turn:
                seconds[name].append(took)
    plain = seconds["whole heads"]
    return [
        {"targets": n_targets, "way": name, "seconds": taken, "ratio": ratio(taken, plain)}
        for name, taken in seconds.items()
    ]


def format_table(rows: list[dict]) -> str:
    header = ["targets", "what", "seconds", "to whole heads alone (lowest to highest)"]
    lines = [
        (str(row["targets"]), row["way"], f"{statistics.median(row['seconds']):.2f}", show_ratio(row["ratio"]))
        for row in rows
    ]
    return markdown_table(header, lines)


def parser() -> argparse.ArgumentParser:
    flags = benchmark_parser(__doc__)
    flags.add_argument("--model", type=Path, default=MINI, help="a LLaVA checkpoint folder")
    flags.add_argument("--targets", type=SIZE, nargs="+", default=[1, 6], help="words of one caption")
    flags.add_argument("--repeats", type=SIZE, default=5, help="turns of all ways")
    flags.add_argument("--threads", type=SIZE, help="CPU threads; default: torch's")
    return flags


def main(argv: list[str] | None = None) -> None:
    flags = parser()
    args = flags.parse_args(argv)
    if not (args.model / "config.json").is_file():
        flags.error(f"--model {args.model}: no config.json there; a LLaVA checkpoint folder is needed")
    if args.threads:
        torch.set_num_threads(args.threads)
    case = checkpoint_case(args.model, "float32")
    rows = [row for n_targets in args.targets for row in measure(case, n_targets, args.repeats)]
    settings = {name: str(value) for name, value in vars(args).items()}
    finish(format_table(rows), {"settings": settings, "rows": rows}, args.json)


if __name__ == "__main__":
    main()
