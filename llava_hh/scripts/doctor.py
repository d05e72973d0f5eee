"""Check in under a minute that all a profile's verbs need is there: packages, weights, prompt, data, heads, disk.

Prints a line per check; exits with status 1 if one of them failed.
"""

import sys
from collections.abc import Sequence

from llava_hh.command_line.parser import ScriptParser
from llava_hh.command_line.profiles import read_profile
from llava_hh.command_line.script import errors_in_one_line, refuse_other_encodings, script_parser

COLOURS = {"ok": "32", "FAIL": "31", "skipped": "90"}


def parser() -> ScriptParser:
    """The flags of `llava-hh doctor`."""
    parser = script_parser(__doc__, "doctor", "llava-hh doctor --profile llava-v1.5-7b")
    text = "a name in bash_scripts/profiles, or the path of such a file"
    parser.add_flag(parser, "--profile", "NAME", text, default="mini")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        profile = read_profile(args.profile)
        refuse_other_encodings(profile)
    from tqdm import tqdm

    from llava_hh.doctor.examination import REMEDIES, Examination, Line

    with tqdm(total=len(REMEDIES), desc="doctor", unit="check", leave=False, disable=None) as bar:

        def report(line: Line) -> None:
            is_coloured = sys.stdout is not None and sys.stdout.isatty()
            tqdm.write(f"\033[{COLOURS[line.status]}m{line}\033[0m" if is_coloured else str(line))
            bar.update()

        well = Examination(profile).run(report)
    if not well:
        raise SystemExit(1)
