"""Write an original LLaVA checkpoint (liuhaotian/llava-v1.5-7b and others) in the transformers layout.

Every verb reads the originals as they are; this is for other programs, and for a folder without the vision tower's.
"""

import argparse
from functools import partial

from llava_hh.command_line.parser import CHECKPOINT, FOLDER, METHOD, MODEL, OUTPUT, ScriptParser
from llava_hh.command_line.script import run_verb, script_parser
from llava_hh.files.progress import say


def parser() -> ScriptParser:
    """The flags of `llava-hh convert`."""
    example = "llava-hh convert --model checkpoints/llava-v1.5-7b --out checkpoints/converted"
    parser = script_parser(__doc__, "convert", example)
    parser.flags(MODEL)(
        "--model", CHECKPOINT, "the original: a folder, or org/name of the hub", "{model_path}", required=True
    )
    text = "of the weights that are written; auto is the checkpoint's own"
    parser.flags(METHOD)("--dtype", ("auto", "float16", "bfloat16", "float32"), text, default="auto")
    parser.flags(OUTPUT)("--out", FOLDER, "the new folder", required=True)
    return parser


def run(args: argparse.Namespace) -> None:
    import torch

    from llava_hh.models.conversion import convert_original

    convert_original(args.model, args.out, None if args.dtype == "auto" else getattr(torch, args.dtype))
    say(args.out)


main = partial(run_verb, parser=parser, run=run)

if __name__ == "__main__":
    main()
