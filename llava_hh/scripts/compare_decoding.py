"""Greedy decoding, AD-HH and random heads on the same images: one table, summary.json and a picture of captions.

AD-HH can have several head lists, such as those found on other data sets (`--other-heads`), and the images can be those
with or without some objects.
"""

import argparse
from pathlib import Path

from llava_hh.command_line import COUNT, errors_in_one_line, script_parser
from llava_hh.comparison import compare, summary_table
from llava_hh.datasets import images_with_objects
from llava_hh.evaluation import RESULT_FILE, control_heads, heads_of_list
from llava_hh.figures.caption_examples import draw_caption_examples
from llava_hh.figures.style import picture
from llava_hh.files import read_json, sha256, write_json
from llava_hh.flags import (
    add_adhh_flags,
    add_object_flags,
    add_sample_flags,
    chosen_objects,
    evaluation_from_flags,
    heads_from_flags,
)
from llava_hh.heads import Head
from llava_hh.interventions import DeactivateText
from llava_hh.metrics.compare import compare_with_reference
from llava_hh.runs import processes


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add_sample_flags(parser, "val2014")
    add_object_flags(parser)
    add_adhh_flags(parser)
    add = parser.add_argument
    add("--other-heads", nargs="*", default=[], metavar="NAME=FILE", help="AD-HH with these head lists as well")
    add("--choice", type=Path, help="take top k and threshold from the choice.json of choose_adhh")
    add("--random-draws", type=COUNT, default=2, help="draws of as many random heads, none of them of the top k")
    add("--summary", type=Path, help="the summary (default: summary.json in --out); the picture goes beside it")
    return parser


def named_files(pairs: list[str]) -> dict[str, Path]:
    """The files of `--other-heads`, by the names of their methods.

    Raises:
        ValueError: not NAME=FILE, a name that cannot be that of a folder, or one that comes twice.
    """
    files: dict[str, Path] = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        if not path or not name.replace("_", "").replace("-", "").isalnum() or f"adhh_{name}" in files:
            raise ValueError(f"--other-heads {pair!r}: expected NAME=FILE, each name once, of letters, digits, - and _")
        files[f"adhh_{name}"] = Path(path)
    return files


def report(args: argparse.Namespace, settings: dict, sentences: dict[str, list], draws: list[list]) -> None:
    """Write the summary, print the table and draw captions."""
    settings |= {"heads_sha256": sha256(args.heads), "top_k": args.top_k, "threshold": args.threshold}
    others = named_files(args.other_heads)
    if others:
        settings["other_heads_sha256"] = {name: sha256(path) for name, path in others.items()}
    summary = compare(sentences, {"random_heads": draws}, settings)
    own = compare_with_reference({name: sentences[name] for name in ("adhh", *others)}, "adhh")
    for name, difference in own.items():
        summary["methods"][name]["minus_adhh"] = difference
    path = args.summary or args.out / "summary.json"
    write_json(path, summary)
    print(f"{summary_table(summary)}\n{path}")
    with picture(path.with_name(f"{path.stem}_captions"), args.debug) as out:
        greedy, adhh = (args.out / name / RESULT_FILE for name in ("greedy", "adhh"))
        draw_caption_examples(greedy, adhh, args.image_folder, out)


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        if args.choice:
            chosen = read_json(args.choice)["chosen"]
            if chosen is None:
                raise ValueError(f"--choice {args.choice}: no setting did better than greedy decoding")
            args.top_k, args.threshold = chosen["top_k"], chosen["threshold"]
        evaluation = evaluation_from_flags(args)
        kept = images_with_objects(evaluation.objects, args.with_object, args.without_object)
        evaluation = evaluation.of_images(kept, chosen_objects(args))
        heads = heads_from_flags(args, evaluation.lvlm, args.top_k)
        others = {
            name: heads_of_list(path, evaluation.lvlm, args.top_k, allow_foreign=args.foreign_heads)
            for name, path in named_files(args.other_heads).items()
        }

        def switched_off(chosen: list[Head]) -> list[DeactivateText]:
            return [DeactivateText(tuple(chosen), args.threshold)]

        controls = {
            seed: control_heads(evaluation.lvlm, heads, seed)
            for seed in range(args.seed, args.seed + args.random_draws)
        }
        for name, chosen in {"adhh": heads, **others}.items():
            evaluation.try_out(switched_off(chosen), args.out / name)
        for seed, control in controls.items():
            evaluation.try_out(switched_off(control), args.out / f"random_{seed}")
        sentences = {
            "greedy": evaluation.run("greedy", [], args.out / "greedy"),
            "adhh": evaluation.run("AD-HH", switched_off(heads), args.out / "adhh"),
            **{name: evaluation.run(name, switched_off(chosen), args.out / name) for name, chosen in others.items()},
        }
        draws = [
            evaluation.run(f"random {seed}", switched_off(control), args.out / f"random_{seed}")
            for seed, control in controls.items()
        ]

        if processes().is_main:
            report(args, evaluation.record(switched_off(heads)), sentences, draws)


if __name__ == "__main__":
    main()
