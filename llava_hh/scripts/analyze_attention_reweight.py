"""Figure 6: CHAIR_i, recall and mentions as the attention of heads on a span is scaled; hallucination and random heads.

All weights of a span share one greedy run (weight 1), and so do both spans where they write into the same folder.
Each group of heads has a folder in --out; its other weights are captioned in the same batches, and a weight added later
gets a folder of its own, so finished weights are kept. Writes attention_reweight_<span>.json and its figure.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llava_hh.command_line import COUNT, FACTOR, SIZE, errors_in_one_line, script_parser
from llava_hh.evaluation import Evaluation, control_heads, heads_with_text
from llava_hh.figures import paper
from llava_hh.figures.attention_reweight import draw_attention_reweight
from llava_hh.figures.style import picture
from llava_hh.files import sha256, write_json
from llava_hh.flags import add_head_flags, add_sample_flags, evaluation_from_flags, heads_from_flags
from llava_hh.heads import Head
from llava_hh.interventions import ScaleAttention
from llava_hh.metrics.compare import compare_with_reference, summarise, summarise_mean
from llava_hh.runs import processes, provenance


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add_sample_flags(parser, "val2014")
    add_head_flags(parser)
    add = parser.add_argument
    add("--top-k", type=SIZE, default=20, help="how many heads of the list, and of each random draw")
    add("--span", choices=("after_image", "image"), required=True, help="attention on which keys is scaled")
    add("--alphas", type=FACTOR, nargs="+", required=True, help="factors on the attention")
    add("--random-draws", type=COUNT, default=2, help="draws of random heads, none of them of the top k")
    add("--paper-values", action="store_true", help="draw the paper's values for LLaVA-1.5-7B beside ours")
    return parser


def check_weights(alphas: list[float]) -> None:
    """Refuse weights before any captioning.

    Raises:
        ValueError: one given twice, or no weight 1 to compare with.
    """
    if 1 not in alphas or len(set(alphas)) < len(alphas):
        raise ValueError(f"--alphas {' '.join(f'{a:g}' for a in alphas)}: expected 1 among them, each once")


def weight_folders(out: Path, name: str, alphas: list[float]) -> dict[Path, list[float]]:
    """Which folders hold, or will hold, the captions of these weights; all the weights of each.

    The weights of a folder, which its name tells, are captioned in the same batches. Those that no folder has get a new
    one, so that a weight added later leaves what is finished as it is.
    """
    wanted = [alpha for alpha in alphas if alpha != 1]
    there = {
        folder: [float(part) for part in folder.name.removeprefix(f"{name}_").split("_")]
        for folder in sorted(out.glob(f"{name}_[0-9]*"))
    }
    folders = {folder: weights for folder, weights in there.items() if set(weights) & set(wanted)}
    if new := [alpha for alpha in wanted if not any(alpha in weights for weights in folders.values())]:
        folders[out / "_".join([name, *map(str, new)])] = new
    return folders


def run_weights(
    evaluation: Evaluation, args: argparse.Namespace, name: str, heads: list[Head], greedy: list[dict]
) -> dict[float, list[dict]]:
    """The scored captions of one group of heads at every weight; 1 is greedy decoding."""

    def scaled(rows: Sequence[dict]) -> list[ScaleAttention]:
        return [ScaleAttention(tuple(heads), tuple(row["alpha"] for row in rows), args.span)]

    runs = {1.0: greedy}
    for folder, weights in weight_folders(args.out, f"{args.span}_{name}", args.alphas).items():
        repeated = replace(
            evaluation,
            samples=[{**sample, "alpha": alpha} for sample in evaluation.samples for alpha in weights],
            task={"span": args.span, "heads": [list(head) for head in heads], "alphas": weights},
        )
        rows = repeated.score(repeated.caption(folder.name, scaled, folder))
        runs |= {alpha: rows[place :: len(weights)] for place, alpha in enumerate(weights)}
    return {alpha: runs[alpha] for alpha in args.alphas}  # a folder may hold more, which are no part of this family


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        check_weights(args.alphas)
        evaluation = evaluation_from_flags(args)
        heads = heads_from_flags(args, evaluation.lvlm, args.top_k)
        if on_text := args.span == "after_image":
            heads_with_text(evaluation.lvlm, heads, refuse=True)
        greedy = evaluation.run("greedy", [], args.out / "greedy")
        own = run_weights(evaluation, args, f"top_{args.top_k}", heads, greedy)
        draws, controls = [], {}
        for seed in range(args.seed, args.seed + args.random_draws):
            control = control_heads(evaluation.lvlm, heads, seed, on_text)
            controls[seed] = [list(head) for head in control]
            draws.append(run_weights(evaluation, args, f"random_{args.top_k}_of_{seed}", control, greedy))
        if not processes().is_main:
            return
        scaled = {f"{alpha:g}": sentences for alpha, sentences in own.items() if alpha != 1}
        result = {
            "span": args.span,
            "alphas": args.alphas,
            "hal_heads": [summarise(own[alpha]) for alpha in args.alphas],
            "minus_greedy": compare_with_reference({"greedy": greedy, **scaled}, "greedy"),
            "random_heads": [
                {**summarise_mean([draw[alpha] for draw in draws]), "draws": [summarise(draw[alpha]) for draw in draws]}
                for alpha in args.alphas
                if draws
            ],
            "n": len(greedy),
            **({"paper": paper.REWEIGHT[args.span]} if args.paper_values else {}),
        }
        settings = {
            **evaluation.record([]),
            "split": args.split,
            "heads_sha256": sha256(args.heads),
            "top_k": args.top_k,
            "hal_heads": [list(head) for head in heads],
            "random_heads_by_seed": controls,
        }
        path = args.out / f"attention_reweight_{args.span}.json"
        write_json(path, {**result, "settings": settings, "run": provenance()})
    for alpha, point in zip(args.alphas, result["hal_heads"], strict=True):
        values = f"CHAIR_i {point['CHAIRi']:.1%}  recall {point['recall']:.1%}  mentions {point['mentions']:.1f}"
        print(f"weight {alpha:g}: {values}")
    print(path)
    with picture(path.with_suffix(""), args.debug) as out:
        draw_attention_reweight(path, out)


if __name__ == "__main__":
    main()
