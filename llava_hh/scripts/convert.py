"""Write an original LLaVA checkpoint (liuhaotian/llava-v1.5-7b and others) in the transformers layout.

Every script reads the originals as they are; this is for other programs, and for a folder without the vision tower's.
"""

import argparse
from pathlib import Path

import torch

from llava_hh.command_line import errors_in_one_line, script_parser
from llava_hh.models.conversion import convert_original

DTYPES = {"auto": None, "float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of the original checkpoint")
    add("--out", type=Path, required=True, help="the new folder")
    add("--dtype", choices=DTYPES, default="auto", help="of the weights that are written; auto is the checkpoint's own")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        convert_original(args.model, args.out, DTYPES[args.dtype])
        print(args.out)


if __name__ == "__main__":
    main()
