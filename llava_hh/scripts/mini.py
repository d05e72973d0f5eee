"""Make mini: its data sets, its checkpoint, or (hours) its weights from nothing.

Every stage skips what is there; what was made with another seed or step, or of other files, is an error.
"""

from collections.abc import Sequence
from pathlib import Path

from llava_hh.command_line.parser import METHOD, MODEL, ScriptParser
from llava_hh.command_line.profiles import read_profile
from llava_hh.command_line.script import RANDOM_SEED, chosen, errors_in_one_line, script_parser
from llava_hh.mini.recipe import SAVED_STEPS, SEED

OWN = "checkpoints/mini/"  # nothing of mini may stand where another model is looked for
STAGES = ("data", "base", "vision", "tune", "assemble", "steps")


def parser() -> ScriptParser:
    """The flags of `llava-hh mini`."""
    parser = script_parser(__doc__, "mini", "llava-hh mini data")
    parser.add_argument("stage", choices=STAGES, help="what to make")
    add = parser.section(MODEL).add_argument
    for flag, default, text in (
        ("--data", "dataset/mini", "folder of the three sets"),
        ("--weights", "checkpoints/mini/adapters", "folder of mini's weights"),
        ("--base", "checkpoints/mini/base", "the language model, unpacked"),
        ("--model", "checkpoints/mini/model", "the assembled checkpoint"),
        ("--steps", "checkpoints/mini/steps", "checkpoints of all steps"),
    ):
        add(flag, type=Path, metavar="FOLDER", default=Path(default), help=text)
    add = parser.section(METHOD).add_argument
    add("--step", type=int, choices=SAVED_STEPS, default=SAVED_STEPS[-1], help="tuning step to assemble")
    add("--seed", type=RANDOM_SEED, default=SEED, help="of projector and tuning; for another, name new folders")
    parser.take_from_profile(data="{coco_path}", base="{base_model}", model="{model_path}", steps="{training_steps}")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    command = parser()
    args = command.parse_args(argv)
    if args.profile and not read_profile(args.profile)["model_path"].startswith(OWN):
        command.error(f"--profile {args.profile}: its model is not mini's, below {OWN}; name the folders by flags")
    with errors_in_one_line(args.debug):
        from llava_hh.mini.stages import Build, make

        make(args.stage, chosen(Build, args))


if __name__ == "__main__":
    main()
