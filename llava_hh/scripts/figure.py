"""Draw the figures of the paper that look into a model: from captions, checkpoints, or a finished result.

Every figure writes its numbers as JSON, and a picture of them as PNG and PDF. `draw` makes a picture anew from such a
file, or from a result of another verb.
"""

import argparse
from functools import partial
from importlib import import_module
from inspect import getdoc
from pathlib import Path
from typing import Any

from llava_hh.command_line.numbers import SIZE
from llava_hh.command_line.parser import FILE, METHOD, MODEL, OUTPUT, SPEED, ScriptParser
from llava_hh.command_line.script import parser_of_verbs, run_verb
from llava_hh.experiments.per_caption import CaptionFigure, Figure
from llava_hh.figures.drawn import PICTURES, STYLES, redraw
from llava_hh.files.progress import say
from llava_hh.scripts.flags import ATTRIBUTED, SCORED, add_caption_flags, add_head_flags, add_out_flag

# verb: module and class of its figure
FIGURES = {
    "bias": "llava_hh.experiments.attention_bias:Bias",
    "inheritance": "llava_hh.experiments.attention_inheritance:Inheritance",
    "divergence": "llava_hh.experiments.js_divergence:Divergence",
    "words": "llava_hh.experiments.word_maps:Words",
    "modules": "llava_hh.experiments.module_influence:Modules",
    "factors": "llava_hh.experiments.attention_reweight:Factors",
}
# what a profile fills of the flags that several figures have
TEMPLATES = {"captions": SCORED, "image_folder": "{coco_path}/train2014"}
TEMPLATES |= dict.fromkeys(("heads", "attribution"), "{head_list}")


def figure_of(name: str) -> Figure:
    """The figure of a verb."""
    module, kind = FIGURES[name].split(":")
    return getattr(import_module(module), kind)()


def make(figure: Figure, args: argparse.Namespace) -> None:
    """Do a figure's work; print what it found, and the names of its files."""
    from llava_hh.files.files import read_json
    from llava_hh.runs.finished import is_finished, left_by_runs, mark_finished, request_of

    figure.options = vars(args)
    path = args.out / f"{figure.name}.json"
    request = request_of(f"figure {figure.name}", vars(args), figure.constants)
    is_there = is_finished(path, request)
    result = read_json(path) if is_there else figure.run(args.out)
    if result is None:
        return
    for line in (*figure.lines(result), path):
        say(line)
    if not is_there:
        mark_finished(path, request, left_by_runs(args.out))
    if figure.drawn_by or type(figure).draw is not Figure.draw:
        from llava_hh.figures.style import in_style, picture

        with picture(args.out / figure.name, args.debug) as out, in_style(args.style):
            figure.draw(path, out)


def add_figure(parser: ScriptParser, name: str) -> None:
    """Add the verb of a figure: the flags that several figures share, and those of this figure."""
    figure = figure_of(name)
    verb = parser.verb(name, partial(make, figure), f"llava-hh figure {name} {figure.example}", getdoc(figure))
    templates = dict(figure.profile)
    if "out" not in templates:
        templates["out"] = f"{ATTRIBUTED}/{figure.name}"
    if isinstance(figure, CaptionFigure):
        add_caption_flags(verb)
        add_head_flags(verb)
        verb.flags(METHOD)("--top-k", SIZE, "heads of each list", default=figure.top_k)
        text = "use the first so many captions" + figure.hallucinating * " with a hallucination"
        verb.flags(MODEL)("--limit", SIZE, text, default=figure.limit)
        verb.flags(SPEED)("--batch-size", SIZE, "captions per block that a rerun skips; they run one by one", default=8)
    else:
        add_out_flag(verb)

    def add(*flags: str, **named: Any) -> None:
        flag = verb.section(METHOD).add_argument(*flags, **named)
        if flag.dest in TEMPLATES:
            templates.setdefault(flag.dest, TEMPLATES[flag.dest])

    figure.add_flags(add)
    if figure.paper:
        text = "put the paper's values for LLaVA-1.5-7B beside ours"
        verb.flags(OUTPUT)("--paper-values", bool, text, "{paper_values}")
    add_style_flag(verb)
    verb.take_from_profile(**templates)


def draw(args: argparse.Namespace) -> None:
    """Draw a picture of a finished result: nothing is measured.

    Pictures of `evaluate`, `attribute`, `compare details` and `finetune` are among them. Writes PNG and PDF.
    """
    from llava_hh.figures.style import ENDINGS, in_style

    with in_style(args.style):
        redraw(args.picture, args.result, args.out)
    for ending in ENDINGS:
        say(f"{args.out}.{ending}")


def add_draw(parser: ScriptParser) -> None:
    example = "llava-hh figure draw methods_over_recall results/mini/measured_methods.json --out methods"
    verb = parser.verb("draw", draw, example)
    verb.add_argument("picture", choices=PICTURES, metavar="PICTURE", help=f"which: {', '.join(PICTURES)}")
    verb.add_argument("result", type=Path, metavar="FILE", help="the result file that it is drawn from")
    verb.flags(OUTPUT)("--out", FILE, "path of the picture, without the ending", required=True)
    add_style_flag(verb)


def add_style_flag(verb: ScriptParser) -> None:
    """The flag that says what a picture is for."""
    text = "paper: no title, which is for a caption; both are 3.3 or 6.8 inches wide, with 8-point text"
    verb.flags(OUTPUT)("--style", STYLES, text, default=STYLES[0])


def parser() -> ScriptParser:
    """The flags of `llava-hh figure`."""
    parser = parser_of_verbs(__doc__, "figure", add_draw)
    for name in FIGURES:
        add_figure(parser, name)
    return parser


main = partial(run_verb, parser=parser)

if __name__ == "__main__":
    main()
