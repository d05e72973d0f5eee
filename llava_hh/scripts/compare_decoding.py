"""Greedy decoding, AD-HH and random heads on the same images: one table, summary.json and a picture of captions."""

import argparse
from pathlib import Path

from llava_hh.command_line import errors_in_one_line, script_parser
from llava_hh.comparison import compare, summary_table
from llava_hh.evaluation import RESULT_FILE, Evaluation, add_adhh_flags, add_sample_flags, heads_from_flags
from llava_hh.figures.caption_examples import draw_caption_examples
from llava_hh.heads import Head, random_heads
from llava_hh.interventions import DeactivateText
from llava_hh.runs import processes, read_json, sha256, write_json


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add_sample_flags(parser, "val2014")
    add_adhh_flags(parser)
    add = parser.add_argument
    add("--choice", type=Path, help="take top k and threshold from the choice.json of choose_adhh")
    add("--random-draws", type=int, default=2, help="draws of as many random heads, none of them of the top k")
    add("--summary", type=Path, help="the summary (default: summary.json in --out); the picture goes beside it")
    return parser


def report(args: argparse.Namespace, settings: dict, sentences: dict[str, list], draws: list[list]) -> None:
    """Write the summary and its picture and print the table."""
    settings |= {"heads_sha256": sha256(args.heads), "top_k": args.top_k, "threshold": args.threshold}
    summary = compare(sentences, {"random_heads": draws}, settings)
    path = args.summary or args.out / "summary.json"
    write_json(path, summary)
    picture = path.with_name(f"{path.stem}_captions")
    draw_caption_examples(
        args.out / "greedy" / RESULT_FILE, args.out / "adhh" / RESULT_FILE, args.image_folder, picture
    )
    print(f"{summary_table(summary)}\n{path}\n{picture}.png")


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        if args.choice:
            chosen = read_json(args.choice)["chosen"]
            if chosen is None:
                raise ValueError(f"--choice {args.choice}: no setting did better than greedy decoding")
            args.top_k, args.threshold = chosen["top_k"], chosen["threshold"]
        evaluation = Evaluation.from_flags(args)
        heads = heads_from_flags(args, evaluation.lvlm, args.top_k)

        def switched_off(chosen: list[Head]) -> list[DeactivateText]:
            return [DeactivateText(tuple(chosen), args.threshold)]

        controls = {
            seed: random_heads(evaluation.lvlm.n_layers, evaluation.lvlm.n_heads, args.top_k, seed, exclude=heads)
            for seed in range(args.seed, args.seed + args.random_draws)
        }
        evaluation.try_out(switched_off(heads), args.out / "adhh")
        for seed, control in controls.items():
            evaluation.try_out(switched_off(control), args.out / f"random_{seed}")
        sentences = {
            "greedy": evaluation.run("greedy", [], args.out / "greedy"),
            "adhh": evaluation.run("AD-HH", switched_off(heads), args.out / "adhh"),
        }
        draws = [
            evaluation.run(f"random {seed}", switched_off(control), args.out / f"random_{seed}")
            for seed, control in controls.items()
        ]

        if processes().is_main:
            report(args, evaluation.settings(switched_off(heads)), sentences, draws)


if __name__ == "__main__":
    main()
