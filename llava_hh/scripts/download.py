"""Fetch what a profile needs: its model's weights from the Hugging Face hub, and COCO 2014. It asks nothing.

What will be fetched is printed first, with sizes, and the room on the disk is checked. Nothing that is there is
fetched again, and a killed download goes on: COCO's archives in the middle, weights with the file that was cut off.
Weights are tested by the sha256 that the hub names, images and annotations by the checksums in their archives. Gated
repositories need a token in HF_TOKEN.
"""

import argparse
from functools import partial

from llava_hh.command_line.parser import MODEL, ScriptParser
from llava_hh.command_line.profiles import read_profile
from llava_hh.command_line.script import run_verb, script_parser
from llava_hh.files.progress import say

PARTS = ("model", "figures", "halc", "coco")
COCO = "http://images.cocodataset.org"  # as cocodataset.org links its archives


def parser() -> ScriptParser:
    """The flags of `llava-hh download`."""
    parser = script_parser(__doc__, "download", "llava-hh download --profile llava-v1.5-7b")
    text = "a name in bash_scripts/profiles, or the path of such a file"
    parser.add_flag(parser, "--profile", "NAME", text, required=True)
    add = parser.flags(MODEL)
    text = "the model; what figures 4 and 5 need beside it; HALC's detector and scorer; images and annotations"
    add("--parts", PARTS, text, nargs="+", default=["model", "coco"])
    add("--coco-url", "URL", "where COCO's archives are", default=COCO)
    return parser


def run(args: argparse.Namespace) -> None:
    from llava_hh.supplies.download import download

    download(read_profile(args.profile), args.parts, args.coco_url)
    say(f"all there; PROFILE={args.profile} sh bash_scripts/doctor.sh checks it")


main = partial(run_verb, parser=parser, run=run)

if __name__ == "__main__":
    main()
