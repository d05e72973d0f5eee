"""The paper's figures that look into a model, each from captions, checkpoints or a finished result.

Every figure writes its numbers as JSON, and a picture of them as PNG and PDF.
"""

import argparse
from importlib import import_module
from inspect import getdoc
from pathlib import Path

from llava_hh.command_line import SIZE, errors_in_one_line, script_parser
from llava_hh.experiments.per_caption import CaptionFigure, Figure

# verb: module and class of its figure
FIGURES = {
    "bias": "llava_hh.experiments.bias:Bias",
    "inheritance": "llava_hh.experiments.inheritance:Inheritance",
    "divergence": "llava_hh.experiments.divergence:Divergence",
    "words": "llava_hh.experiments.words:Words",
    "modules": "llava_hh.experiments.modules:Modules",
    "factors": "llava_hh.experiments.factors:Factors",
}


def figure_of(name: str) -> Figure:
    module, kind = FIGURES[name].split(":")
    return getattr(import_module(module), kind)()


def add_flags(parser: argparse.ArgumentParser, figure: Figure) -> None:
    """Add the flags of a figure: those that several share, and its own."""
    from llava_hh.flags import add_caption_flags, add_head_flags

    add = parser.add_argument
    if isinstance(figure, CaptionFigure):
        add_caption_flags(parser)
        add_head_flags(parser)
        add("--top-k", type=SIZE, default=figure.top_k, help="heads of each list")
        add("--limit", type=SIZE, default=figure.limit, help="use the first so many captions with a hallucination")
        add("--batch-size", type=SIZE, default=8, help="captions per block that a rerun skips; they run one by one")
    else:
        add("--out", type=Path, required=True, help="result folder")
    figure.add_flags(add)
    if figure.paper:
        add("--paper-values", action="store_true", help="draw the paper's values for LLaVA-1.5-7B beside ours")


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    verbs = parser.add_subparsers(required=True, dest="figure", metavar="FIGURE", title="figures")
    for name in FIGURES:
        figure = figure_of(name)
        about = getdoc(figure) or ""
        own = verbs.add_parser(name, help=about.split("\n\n")[0], description=about)
        add_flags(own, figure)
        own.set_defaults(run=figure)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    figure: Figure = args.run
    with errors_in_one_line(args.debug):
        result = figure.run(args.out, vars(args))
        if result is None:
            return
        for line in figure.lines(result):
            print(line)
        print(args.out / f"{figure.name}.json")
    if type(figure).draw is not Figure.draw:
        from llava_hh.figures.style import picture

        with picture(args.out / figure.name, args.debug) as out:
            figure.draw(args.out / f"{figure.name}.json", out)


if __name__ == "__main__":
    main()
