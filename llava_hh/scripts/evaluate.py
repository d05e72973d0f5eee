"""Methods compared on the same images, prompt and model: captions and their CHAIR, POPE's questions, or reference loss.

Greedy decoding is always among them, as the reference. Every method is tried out before any work; one that the model
cannot have is left out, and the result says why. Writes a folder per method and the result: summary.json (captions),
pope.json or reference_loss.json, with its table and picture. Run it again to go on after a kill.
"""

import argparse
from pathlib import Path

from llava_hh.command_line import FACTOR, FRACTION, SIZE, errors_in_one_line, script_parser
from llava_hh.data.pope import SUFFIXES
from llava_hh.flags import add_head_flags, add_object_flags, add_sample_flags
from llava_hh.tables import FORMATS

RESULTS = {"chair": "summary.json", "pope": "pope.json", "loss": "reference_loss.json"}
POPE_TOKENS = 8


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add_sample_flags(parser, "val2014", max_new_tokens=None)
    add_object_flags(parser)
    add = parser.add_argument
    add(
        "--methods",
        nargs="+",
        default=[],
        metavar="METHOD",
        help="kind:field=value,...; such as adhh:top_k=20,threshold=0.4 vcd_paper:alpha=0.5 random:draws=5,of=adhh",
    )
    add("--task", choices=tuple(RESULTS), default="chair", help="what the methods are compared by")
    add_head_flags(parser, required=False)
    add("--plugin", type=Path, action="append", default=[], metavar="FILE.py", help="register methods of your own")
    add("--choosing-captions", type=Path, metavar="FILE", help="random:match=rate: scored greedy captions of other images")
    add("--summary", type=Path, help="the result file; its table and picture go beside it")
    add("--format", choices=FORMATS, default="markdown", help="of the table that is printed")
    add("--choose", action="store_true", help="chair: write choice.json, the best setting by the rule of the next two")
    add("--recall-loss", type=FRACTION, default=0.04, help="most recall to give up, as a fraction")
    add("--mentions-change", type=FACTOR, default=0.07, help="largest relative change of mentions")
    add("--questions", type=Path, metavar="FOLDER", help="pope: the official coco_pope_*.json; else they are built")
    add("--suffix", choices=SUFFIXES, default="llava", help="pope: what follows the question")
    add("--captions-per-image", type=SIZE, default=5, help="loss: the first so many reference captions of each image")
    add("--captions", nargs="*", default=[], metavar="METHOD=FILE", help="loss: scored captions of a method, shown beside")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        if args.max_new_tokens is None:
            args.max_new_tokens = POPE_TOKENS if args.task == "pope" else 128
        from llava_hh.experiments.command import run

        run(args)


if __name__ == "__main__":
    main()
