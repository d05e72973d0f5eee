"""Write AD-HH as a folder that plain transformers loads by `custom_generate=`, without this package."""

import argparse
from functools import partial

from llava_hh.command_line.numbers import FRACTION, SIZE
from llava_hh.command_line.parser import FILE, FOLDER, METHOD, OUTPUT, ScriptParser
from llava_hh.command_line.script import run_verb, script_parser
from llava_hh.files.progress import say


def parser() -> ScriptParser:
    """The flags of `llava-hh export`."""
    parser = script_parser(__doc__, "export", "llava-hh export --heads checkpoints/heads/llava-v1.5-7b.json --out adhh")
    add = parser.flags(METHOD)
    text = "head list (attribution_result.json, checkpoints/heads/*.json), or heads that are written out: L24H4,L23H3"
    add("--heads", FILE, text, "{head_list}", required=True)
    add("--top-k", SIZE, "how many heads of the list AD-HH switches off", "{top_k}", default=20)
    text = "attention mass after the image at which a head is switched off"
    add("--threshold", FRACTION, text, "{threshold}", default=0.4)
    parser.flags(OUTPUT)("--out", FOLDER, "the new folder", required=True)
    return parser


def run(args: argparse.Namespace) -> None:
    from llava_hh.heads import load_heads
    from llava_hh.portable.export import export_decoder

    export_decoder(load_heads(args.heads, top_k=args.top_k), args.threshold, args.out, args.heads.name)
    say(args.out)


main = partial(run_verb, parser=parser, run=run)

if __name__ == "__main__":
    main()
