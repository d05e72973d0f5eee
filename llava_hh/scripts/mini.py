"""Make mini: its data sets, its checkpoint, or (hours) its weights from nothing.

Every stage skips what is there; what was made with another seed or step, or of other files, is an error.
"""

import argparse
from functools import partial
from pathlib import Path

from llava_hh.command_line.numbers import RANDOM_SEED
from llava_hh.command_line.parser import FOLDER, METHOD, MODEL, ScriptParser
from llava_hh.command_line.profiles import read_profile
from llava_hh.command_line.script import chosen, run_verb, script_parser
from llava_hh.mini.recipe import SAVED_STEPS, SEED

OWN = "checkpoints/mini/"  # nothing of mini may stand where another model is looked for


def parser() -> ScriptParser:
    """The flags of `llava-hh mini`."""
    parser = script_parser(__doc__, "mini", "llava-hh mini data")
    parser.add_flag(parser, "stage", ("data", "base", "vision", "tune", "assemble", "steps"), "what to make")
    add = parser.flags(MODEL)
    add("--data", FOLDER, "folder of the three sets", "{coco_path}", default=Path("dataset/mini"))
    add("--weights", FOLDER, "folder of mini's weights", default=Path(f"{OWN}adapters"))
    add("--base", FOLDER, "the language model, unpacked", "{base_model}", default=Path(f"{OWN}base"))
    add("--model", FOLDER, "the assembled checkpoint", "{model_path}", default=Path(f"{OWN}model"))
    add("--steps", FOLDER, "checkpoints of all steps", "{training_steps}", default=Path(f"{OWN}steps"))
    add = parser.flags(METHOD)
    add("--step", int, "tuning step to assemble", choices=SAVED_STEPS, default=SAVED_STEPS[-1])
    add("--seed", RANDOM_SEED, "of projector and tuning; for another, name new folders", default=SEED)
    return parser


def check(command: ScriptParser, args: argparse.Namespace) -> None:
    if args.profile and not read_profile(args.profile)["model_path"].startswith(OWN):
        command.error(f"--profile {args.profile}: its model is not mini's, below {OWN}; name the folders by flags")


def run(args: argparse.Namespace) -> None:
    from llava_hh.mini.quiet import quiet
    from llava_hh.mini.stages import Build, make

    with quiet():
        make(args.stage, chosen(Build, args))


main = partial(run_verb, parser=parser, run=run, check=check)

if __name__ == "__main__":
    main()
