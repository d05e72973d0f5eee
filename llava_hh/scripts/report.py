"""A results folder as one self-contained HTML page: tables, figures, every head, and captions word by word.

The page, report.html in that folder, shows what the folder has, names the file of every number, and loads nothing from
elsewhere. Where heads look at words is shown for captions that record_words went through. If the folder lies below one
named results, the index.html there is renewed: all runs and reports.
"""

import argparse
import sys
from pathlib import Path

from llava_hh.command_line import SIZE, errors_in_one_line, script_parser
from llava_hh.files import is_ours, write_text
from llava_hh.report.index import REPORT, index_folder
from llava_hh.report.render import render_index, render_report
from llava_hh.runs import processes


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("results", type=Path, help="a folder of results, such as results/mini/full, or a part of one")
    add("--summary", type=Path, action="append", default=[], help="a comparison that lies elsewhere; may be repeated")
    add("--first", type=Path, nargs="+", default=[], help="parts of it that the head map and the numbers on top are of")
    add("--limit", type=SIZE, default=200, help="images in the caption browser")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        if not processes().is_main:
            return
        page = args.results / REPORT
        write_text(page, render_report(args.results, args.summary, args.limit, args.first))
        print(page)
        if root := index_folder(args.results):
            index = root / "index.html"
            if index.exists() and not is_ours(index):
                print(f"warning: {index}: no report of ours wrote it; left alone", file=sys.stderr)
                return
            write_text(index, render_index(root))
            print(index)


if __name__ == "__main__":
    main()
