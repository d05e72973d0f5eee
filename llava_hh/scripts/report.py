"""Write what a folder of results has as a page to look at."""

import argparse
import sys
from functools import partial
from pathlib import Path

from llava_hh.command_line.numbers import SIZE
from llava_hh.command_line.parser import FILE, FOLDER, MODEL, SPEED, ScriptParser
from llava_hh.command_line.script import parser_of_verbs, run_verb
from llava_hh.files.progress import say
from llava_hh.scripts.flags import ATTRIBUTED, COMPARED


def write_html(args: argparse.Namespace) -> None:
    """A results folder as one self-contained HTML page: tables, figures, every head, and captions word by word.

    The page, report.html in that folder, shows what the folder has, names the file of every number, and loads nothing
    from elsewhere. Where heads look at words is shown for captions that `figure words` went through. If the folder lies
    below one named results, the index.html there is renewed: all runs and reports.
    """
    from llava_hh.files.files import is_ours, write_text
    from llava_hh.report.index import REPORT, index_folder
    from llava_hh.report.render import render_index, render_report
    from llava_hh.runs.run import processes

    if not processes().is_main:
        return
    page = args.results / REPORT
    write_text(page, render_report(args.results, args.summary, args.limit, args.first))
    say(page)
    if not (root := index_folder(args.results)):
        return
    index = root / "index.html"
    if index.exists() and not is_ours(index):
        say(f"warning: {index}: no report of ours wrote it; left alone", file=sys.stderr)
    else:
        write_text(index, render_index(root))
        say(index)


def write_figures(args: argparse.Namespace) -> None:
    """The paper's figures as one Markdown page: each picture with a sentence of what is seen.

    Writes figures.md into that folder, from the figures' JSON files.
    """
    from llava_hh.report.figures_page import write_page

    if path := write_page(args.results):
        say(path)


def parser() -> ScriptParser:
    """The flags of `llava-hh report`."""
    parser = parser_of_verbs(__doc__, "report")
    html = parser.verb("html", write_html, "llava-hh report html results/mini/quick")
    text = "a folder of results, such as results/mini/quick, or a part of one"
    html.add_flag(html, "results", "RESULTS", text, "{result_path}", type=Path)
    add = html.flags(MODEL)
    add("--summary", FILE, "a comparison that lies elsewhere; may be repeated", action="append", default=[])
    text = "parts of it that the head map and the numbers on top are of"
    add("--first", FOLDER, text, f"{ATTRIBUTED} {COMPARED}", nargs="+", default=[])
    html.flags(SPEED)("--limit", SIZE, "images in the caption browser", default=200)
    figures = parser.verb("figures", write_figures, "llava-hh report figures results/mini/quick")
    text = "the result folder of a profile"
    figures.add_flag(figures, "results", "RESULTS", text, "{result_path}", type=Path)
    return parser


main = partial(run_verb, parser=parser)

if __name__ == "__main__":
    main()
