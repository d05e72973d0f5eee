"""Caption a sample of images, greedily or with attention heads edited; writes captions.jsonl and run.json."""

import argparse

from llava_hh.command_line import FACTOR, FRACTION, SIZE, errors_in_one_line, script_parser
from llava_hh.evaluation import Evaluation
from llava_hh.flags import add_head_flags, add_sample_flags, evaluation_from_flags, heads_from_flags
from llava_hh.interventions import DeactivateText, Intervention, ScaleAttention, ZeroHeads
from llava_hh.runs import processes


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add_sample_flags(parser, "val2014")
    add = parser.add_argument
    add("--edit", choices=("none", "adhh", "zero", "scale"), default="none", help="what to do to the heads")
    add_head_flags(parser, required=False)
    add("--top-k", type=SIZE, default=20, help="how many heads of the list")
    add(
        "--threshold",
        type=FRACTION,
        default=0.4,
        help="adhh: attention mass after the image at which a head is switched off",
    )
    add("--alpha", type=FACTOR, default=0.0, help="scale: factor on the attention")
    add("--span", choices=("after_image", "image"), default="after_image", help="scale: attention on which keys")
    add("--skip-bad", action="store_true", help="report and leave out images that cannot be read")
    return parser


def chosen_interventions(args: argparse.Namespace, evaluation: Evaluation) -> list[Intervention]:
    if args.edit == "none":
        return []
    heads = tuple(heads_from_flags(args, evaluation.lvlm, args.top_k))
    if args.edit == "adhh":
        return [DeactivateText(heads, args.threshold)]
    return [ZeroHeads(heads)] if args.edit == "zero" else [ScaleAttention(heads, args.alpha, args.span)]


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        if args.edit != "none" and args.heads is None:
            raise ValueError(f"--edit {args.edit} needs --heads")
        evaluation = evaluation_from_flags(args, with_truth=False)
        rows = evaluation.caption("captions", chosen_interventions(args, evaluation), args.out, args.skip_bad)
        if processes().is_main:
            n_bad = len(evaluation.samples) - len(rows)
            skipped = f", {n_bad} bad image{'s' * (n_bad > 1)} skipped" if n_bad else ""
            print(f"{len(rows)} captions{skipped}: {args.out / 'captions.jsonl'}")


if __name__ == "__main__":
    main()
