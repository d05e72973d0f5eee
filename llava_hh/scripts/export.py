"""Write AD-HH as a folder that plain transformers loads by `custom_generate=`, without this package."""

from collections.abc import Sequence
from pathlib import Path

from llava_hh.command_line.parser import METHOD, OUTPUT, ScriptParser
from llava_hh.command_line.script import FRACTION, SIZE, errors_in_one_line, script_parser


def parser() -> ScriptParser:
    """The flags of `llava-hh export`."""
    parser = script_parser(__doc__, "export", "llava-hh export --heads checkpoints/heads/llava-v1.5-7b.json --out adhh")
    add = parser.section(METHOD).add_argument
    text = "head list (attribution_result.json, checkpoints/heads/*.json)"
    add("--heads", type=Path, metavar="FILE", required=True, help=text)
    add("--top-k", type=SIZE, default=20, help="how many heads of the list AD-HH switches off")
    text = "attention mass after the image at which a head is switched off"
    add("--threshold", type=FRACTION, default=0.4, help=text)
    parser.section(OUTPUT).add_argument("--out", type=Path, metavar="FOLDER", required=True, help="the new folder")
    parser.take_from_profile(heads="{head_list}", top_k="{top_k}", threshold="{threshold}")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        from llava_hh.heads import load_heads
        from llava_hh.portable.export import export_decoder

        heads = load_heads(args.heads, top_k=args.top_k)
        export_decoder(heads, args.threshold, args.out, args.heads.name)
        print(args.out)


if __name__ == "__main__":
    main()
