"""Choose top_k and threshold of AD-HH on training images, from the whole trade-off between CHAIR_i and recall."""

import argparse

from llava_hh.command_line import FACTOR, FRACTION, SIZE, errors_in_one_line, script_parser
from llava_hh.evaluation import heads_with_text
from llava_hh.figures.style import picture
from llava_hh.figures.trade_off import draw_trade_off
from llava_hh.files import write_json
from llava_hh.flags import add_head_flags, add_sample_flags, evaluation_from_flags, heads_from_flags
from llava_hh.interventions import DeactivateText
from llava_hh.metrics.compare import summarise
from llava_hh.runs import processes, provenance


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add_sample_flags(parser, "train2014", limit=150, seed=1, batch_size=50)
    add = parser.add_argument
    add_head_flags(parser)
    add("--top-k", type=SIZE, nargs="+", default=[1, 2, 5], help="numbers of heads to try")
    add("--threshold", type=FRACTION, nargs="+", default=[0.4, 0.9, 0.95, 0.965, 0.97], help="thresholds to try")
    add("--recall-loss", type=FRACTION, default=0.04, help="most recall to give up, as a fraction")
    add("--mentions-change", type=FACTOR, default=0.07, help="largest relative change of mentions")
    return parser


def choose(points: list[dict], greedy: dict, recall_loss: float, mentions_change: float) -> dict | None:
    """The point of lowest CHAIR_i among those that keep recall and mentions; None if none does better than greedy."""
    kept = [
        point
        for point in points
        if point["CHAIRi"] < greedy["CHAIRi"]  # never so where greedy decoding mentions nothing
        and point["recall"] >= greedy["recall"] - recall_loss
        and abs(point["mentions"] / greedy["mentions"] - 1) <= mentions_change
    ]
    return min(kept, key=lambda point: point["CHAIRi"], default=None)


def report(args: argparse.Namespace, settings: dict, greedy: dict, points: list[dict]) -> None:
    """Write the choice, print all points and draw the trade-off."""
    chosen = choose(points, greedy, args.recall_loss, args.mentions_change)
    rule = f"lowest CHAIR_i with recall down by at most {args.recall_loss:g}, mentions by {args.mentions_change:g}"
    content = {"greedy": greedy, "chosen": chosen, "rule": rule, "points": points}
    write_json(args.out / "choice.json", {**content, "settings": settings, "run": provenance()})
    for point in points:
        values = f"CHAIR_i {point['CHAIRi']:.1%}  recall {point['recall']:.1%}  mentions {point['mentions']:.1f}"
        print(f"top {point['top_k']:3d}  threshold {point['threshold']:g}  {values}")
    print(f"greedy: CHAIR_i {greedy['CHAIRi']:.1%}  recall {greedy['recall']:.1%}  mentions {greedy['mentions']:.1f}")
    print(f"chosen: top {chosen['top_k']} at {chosen['threshold']:g}" if chosen else "chosen: none does better")
    print(args.out / "choice.json")
    with picture(args.out / "choice", args.debug) as out:
        draw_trade_off(args.out / "choice.json", out)


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        evaluation = evaluation_from_flags(args)
        heads = heads_from_flags(args, evaluation.lvlm, max(args.top_k))
        heads_with_text(evaluation.lvlm, heads, refuse=True)
        greedy = summarise(evaluation.run("greedy", [], args.out / "greedy"))
        points = []
        for top_k in args.top_k:
            for threshold in args.threshold:
                name = f"top_{top_k}_at_{threshold:g}"
                sentences = evaluation.run(name, [DeactivateText(tuple(heads[:top_k]), threshold)], args.out / name)
                points.append({"top_k": top_k, "threshold": threshold, **summarise(sentences)})
        if processes().is_main:
            report(args, evaluation.record([]), greedy, points)


if __name__ == "__main__":
    main()
