"""Write an original LLaVA checkpoint (liuhaotian/llava-v1.5-7b and others) in the transformers layout.

Every verb reads the originals as they are; this is for other programs, and for a folder without the vision tower's.
"""

from collections.abc import Sequence
from pathlib import Path

from llava_hh.command_line.parser import METHOD, MODEL, OUTPUT, ScriptParser
from llava_hh.command_line.script import errors_in_one_line, script_parser

DTYPES = ("auto", "float16", "bfloat16", "float32")


def parser() -> ScriptParser:
    """The flags of `llava-hh convert`."""
    example = "llava-hh convert --model checkpoints/llava-v1.5-7b --out checkpoints/converted"
    parser = script_parser(__doc__, "convert", example)
    text = "folder of the original checkpoint"
    parser.section(MODEL).add_argument("--model", type=Path, metavar="FOLDER", required=True, help=text)
    text = "of the weights that are written; auto is the checkpoint's own"
    parser.section(METHOD).add_argument("--dtype", choices=DTYPES, default="auto", help=text)
    parser.section(OUTPUT).add_argument("--out", type=Path, metavar="FOLDER", required=True, help="the new folder")
    parser.take_from_profile(model="{model_path}")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        import torch

        from llava_hh.models.conversion import convert_original

        convert_original(args.model, args.out, None if args.dtype == "auto" else getattr(torch, args.dtype))
        print(args.out)


if __name__ == "__main__":
    main()
