"""Removal of hallucination heads, as the paper does it on newer models, against greedy decoding and random heads.

A removed head is 0 at every position, whatever it reads. With --threshold the same heads are also switched off
adaptively (AD-HH), which the paper does not try there. All methods are tried out before any captioning. Writes a result
folder per method, and summary.json and .md; run it again to go on after a kill.
"""

import argparse
from dataclasses import replace

from llava_hh.command_line import COUNT, FRACTION, SIZE, errors_in_one_line, script_parser
from llava_hh.comparison import compare, summary_table
from llava_hh.evaluation import control_heads
from llava_hh.files import sha256, write_json, write_text
from llava_hh.flags import add_head_flags, add_sample_flags, evaluation_from_flags, heads_from_flags
from llava_hh.heads import Head
from llava_hh.interventions import DeactivateText, ZeroHeads
from llava_hh.runs import processes
from newer_models.released import check_released, remove_as_released


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add_sample_flags(parser, "val2014")
    add_head_flags(parser)
    add = parser.add_argument
    add("--top-k", type=SIZE, default=10, help="how many heads of the list are removed")
    add("--threshold", type=FRACTION, help="also AD-HH: attention mass after the image at which a head is switched off")
    add("--random-draws", type=COUNT, default=2, help="removals of as many random heads, none of them of the top k")
    add(
        "--released",
        action="store_true",
        help="Llama-3.2-Vision: also what the paper's code removes there, heads of the vision tower",
    )
    return parser


def report(args: argparse.Namespace, settings: dict, sentences: dict[str, list], draws: list[list]) -> None:
    """Write the summary and its table, and print the table."""
    settings |= {"heads_sha256": sha256(args.heads), "top_k": args.top_k, "threshold": args.threshold}
    summary = compare(sentences, {"random_heads": draws}, settings)
    table = summary_table(summary)
    write_json(args.out / "summary.json", summary)
    write_text(args.out / "summary.md", table + "\n")
    print(f"{table}\n{args.out / 'summary.json'}")


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        evaluation = evaluation_from_flags(args)
        lvlm = evaluation.lvlm
        heads = heads_from_flags(args, lvlm, args.top_k)
        if args.released:
            check_released(lvlm.model)

        def removed(chosen: list[Head]) -> list[ZeroHeads]:
            return [ZeroHeads(tuple(chosen))]

        methods = {"greedy": [], "removal": removed(heads)}
        if args.threshold is not None:
            methods["adhh"] = [DeactivateText(tuple(heads), args.threshold)]
        seeds = range(args.seed, args.seed + args.random_draws)
        controls = {f"random_{seed}": removed(control_heads(lvlm, heads, seed, with_text=False)) for seed in seeds}
        for name, method in {**methods, **controls}.items():
            evaluation.try_out(method, args.out / name)
        sentences = {name: evaluation.run(name, method, args.out / name) for name, method in methods.items()}
        if args.released:
            own = replace(evaluation, task={"removed_as_released": heads})
            with remove_as_released(lvlm.model, heads):
                sentences["removal_released"] = own.run("removal_released", [], args.out / "removal_released")
        draws = [evaluation.run(name, method, args.out / name) for name, method in controls.items()]
        if processes().is_main:
            report(args, evaluation.record(methods["removal"]), sentences, draws)


if __name__ == "__main__":
    main()
