"""Decoding methods compared on the same images, prompt and model: CHAIR, BLEU and time per generated token.

Greedy decoding is always among them, as the reference. Everything that a method needs is tried out before any
captioning; a decoder that the model cannot have is left out, and the summary says why. Writes a result folder per
method, and summary.json, .md and .png; run it again to go on after a kill.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from baselines.registry import PRESETS, changed_presets
from llava_hh.blocks import Run
from llava_hh.command_line import errors_in_one_line, script_parser
from llava_hh.comparison import compare, summary_table
from llava_hh.evaluation import RESULT_FILE, Evaluation
from llava_hh.figures.methods import draw_methods
from llava_hh.figures.style import picture
from llava_hh.files import read_json, sha256, write_json, write_text
from llava_hh.flags import add_adhh_flags, add_sample_flags, evaluation_from_flags, heads_from_flags
from llava_hh.footprint import stored_tensors
from llava_hh.generation import CannotDecode, Decoding, Method, seconds_per_token
from llava_hh.interventions import DeactivateText, ZeroHeads
from llava_hh.runs import processes

METHODS = ("greedy", "adhh", "removal", "tfhh", *PRESETS)


@dataclass(frozen=True)
class Entry:
    """One row: how to decode, on which checkpoint (None: that of --model), on how many images (None: all)."""

    method: Method
    checkpoint: Path | None = None
    limit: int | None = None


def add_method_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that name the methods of a comparison, and what they need."""
    add = parser.add_argument
    add("--methods", nargs="+", required=True, metavar="METHOD", help=f"some of: {', '.join(METHODS)}")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="PRESET.FIELD=VALUE",
        help="change a setting of a preset, such as vcd_paper.alpha=0.5; the value is JSON",
    )
    add_adhh_flags(parser, required=False)
    add("--tfhh-model", type=Path, nargs="+", default=[], help="fine-tuned checkpoint folders, one per seed, for tfhh")


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add_sample_flags(parser, "val2014")
    add_method_flags(parser)
    add = parser.add_argument
    add(
        "--limit-of",
        nargs="+",
        action="extend",
        default=[],
        metavar="METHOD=N",
        help="let a slow method have the first N of the images only, such as opera=30",
    )
    add("--summary", type=Path, help="the summary (default: summary.json in --out); table and figure go beside it")
    return parser


def check_flags(args: argparse.Namespace) -> dict[str, Decoding]:
    """See that the flags fit together, before anything is loaded or written; the decoders that they name.

    Raises:
        ValueError: an unknown method, a wrong override, a method without what it needs.
        OSError: a folder without a checkpoint.
    """
    if unknown := [name for name in args.methods if name not in METHODS]:
        raise ValueError(f"--methods {unknown[0]}: no such method; choose some of: {', '.join(METHODS)}")
    if repeated := [name for name in args.methods if args.methods.count(name) > 1]:
        raise ValueError(f"--methods {repeated[0]}: named more than once")
    limits_from_flags(args)
    decoders = changed_presets([name for name in args.methods if name in PRESETS], args.set)
    if of_heads := [name for name in ("adhh", "removal") if name in args.methods]:
        if args.heads is None:
            raise ValueError(f"--methods {of_heads[0]} needs --heads")
        if args.heads != Path("published"):
            read_json(args.heads)
    if ("tfhh" in args.methods) != bool(args.tfhh_model):
        raise ValueError("--methods tfhh and --tfhh-model need each other")
    for path in [args.model, *args.tfhh_model]:
        stored_tensors(path)
    return decoders


def limits_from_flags(args: argparse.Namespace) -> dict[str, int]:
    """How many images the methods of --limit-of have, whether they are among --methods or not.

    Raises:
        ValueError: another form than METHOD=N, an unknown method, or greedy decoding, which all are compared with.
    """
    limits = {}
    for given in args.limit_of:
        name, _, number = given.partition("=")
        if not (number.isdecimal() and int(number)):
            raise ValueError(f"--limit-of {given}: expected METHOD=N, such as opera=30")
        if name not in METHODS[1:]:
            raise ValueError(f"--limit-of {given}: expected one of {', '.join(METHODS[1:])}")
        limits[name] = int(number)
    return limits


def entries_from_flags(
    args: argparse.Namespace, evaluation: Evaluation, decoders: dict[str, Decoding]
) -> dict[str, Entry]:
    """The rows of the comparison by name, greedy decoding first; TF-HH has one per seed.

    Raises:
        ValueError, IndexError: a head list or threshold that does not fit.
    """
    entries, limits = {"greedy": Entry([])}, limits_from_flags(args)
    for name in args.methods:
        limit = limits.get(name)
        if name in ("adhh", "removal"):
            heads = tuple(heads_from_flags(args, evaluation.lvlm, args.top_k))
            off = DeactivateText(heads, args.threshold) if name == "adhh" else ZeroHeads(heads)
            entries[name] = Entry([off], limit=limit)
        elif name == "tfhh" and len(args.tfhh_model) > 1:
            entries |= {f"tfhh_{seed}": Entry([], path, limit) for seed, path in enumerate(args.tfhh_model, 1)}
        elif name == "tfhh":
            entries[name] = Entry([], args.tfhh_model[0], limit)
        elif name in decoders:
            entries[name] = Entry(decoders[name], limit=limit)
    return entries


def leave_out(entries: dict[str, Entry], try_out: Callable[[str, Entry], object]) -> dict[str, str]:
    """Take out the entries that this model cannot have, and say so.

    Args:
        try_out: lets one of them decode a token, by name.
    Returns: by name, why.
    Raises:
        ValueError: nothing is left to compare with greedy decoding.
    """
    left_out = {}
    for name in [*entries]:
        try:
            try_out(name, entries[name])
        except CannotDecode as error:
            left_out[name] = str(error)
            del entries[name]
            if processes().is_main:
                print(f"left out: {name}: {error}", flush=True)
    if left_out and entries.keys() == {"greedy"}:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise ValueError(f"--methods: this model can have none of them: {reasons}")
    return left_out


def costs_of(out: Path, sentences: Mapping[str, Sequence[dict]], batch_size: int) -> dict[str, dict]:
    """BLEU-1 to 4, and seconds per generated token, also relative to greedy, of the finished runs in `out`.

    Times are medians over batches; a method's batch is measured by greedy's batch of the same images. What a run
    does not have is left out: BLEU without reference captions, times of captions that an older version left.

    Args:
        sentences: by method; images that a run has beside these do not count.
    """
    times = {}
    for name, own in sentences.items():
        run = Run(out / name)
        run.samples, run.size = own, batch_size
        sizes = [len(block["image_ids"]) for block in run.finished_blocks()]
        times[name] = list(zip(seconds_per_token(run), sizes, strict=True))
    found: dict[str, dict] = {}
    for name in sentences:
        overall = read_json(out / name / RESULT_FILE)["overall_metrics"]
        own = {"Bleu": [round(value, 5) for value in overall["Bleu"]]} if "Bleu" in overall else {}
        pairs = [
            (time, base)
            for (time, n_images), (base, n_base) in zip(times[name], times["greedy"], strict=False)
            if time and base and n_images == n_base
        ]
        if pairs:
            own["seconds_per_token"] = round(statistics.median(time for time, _ in pairs), 6)
            own["relative_time"] = round(statistics.median(time / base for time, base in pairs), 4)
        found[name] = own
    return found


def report(
    args: argparse.Namespace, evaluation: Evaluation, sentences: dict[str, list], methods: dict, left_out: dict
) -> None:
    """Write the summary and its table, print the table and draw the figure."""
    seeds = [name for name in sentences if name.startswith("tfhh_")]
    settings = {**evaluation.record([]), "split": args.split, "methods": methods}
    settings |= {"left_out": left_out} if left_out else {}
    if {"adhh", "removal"} & sentences.keys():
        settings |= {"heads_sha256": sha256(args.heads), "top_k": args.top_k, "threshold": args.threshold}
    summary = compare(sentences, {"tfhh": [sentences[name] for name in seeds]} if seeds else {}, settings)
    costs = costs_of(args.out, sentences, args.batch_size)
    if seeds:
        shared = set.intersection(*(set(costs[name]) for name in seeds))
        costs["tfhh"] = {key: np.mean([costs[name][key] for name in seeds], axis=0).tolist() for key in sorted(shared)}
    for name, own in costs.items():
        summary["methods"][name] |= own
    path = args.summary or args.out / "summary.json"
    write_json(path, summary)
    table = summary_table(summary)
    write_text(path.with_suffix(".md"), table + "\n")
    print(f"{table}\n{path}")
    with picture(path.with_suffix(""), args.debug) as out:
        draw_methods(path, out)


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        decoders = check_flags(args)
        evaluation = evaluation_from_flags(args)
        entries = entries_from_flags(args, evaluation, decoders)

        def its_own(entry: Entry) -> Evaluation:
            own = evaluation.first(entry.limit)
            return own if entry.checkpoint is None else own.with_model(entry.checkpoint)

        left_out = leave_out(entries, lambda name, entry: its_own(entry).try_out(entry.method, args.out / name))
        sentences, methods = {}, {}
        for name, entry in entries.items():
            own = its_own(entry)
            sentences[name] = own.run(name, entry.method, args.out / name)
            methods[name] = own.settings(entry.method).record()
        if processes().is_main:
            report(args, evaluation, sentences, methods, left_out)


if __name__ == "__main__":
    main()
