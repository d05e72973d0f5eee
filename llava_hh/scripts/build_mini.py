"""Make mini: its data sets, its checkpoint, or (hours) its weights from nothing.

Every stage skips what is there; what was made with another seed or step, or of other files, is an error.
"""

import argparse
from pathlib import Path

from llava_hh.command_line import RANDOM_SEED, errors_in_one_line, script_parser
from llava_hh.mini.dataset import write_missing_splits
from llava_hh.mini.made import is_made
from llava_hh.mini.model import PROJECTOR_FILE, VISION_FILE, assemble, export_base_language_model
from llava_hh.mini.tuning import ADAPTER_FILE, CAPTIONS, SAVED_STEPS, SEED, save_start, step_folder, tune
from llava_hh.mini.vision import train_vision_tower


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    parser.add_argument("stage", choices=("data", "base", "vision", "tune", "assemble", "steps"), help="what to make")
    parser.add_argument("--data", type=Path, default=Path("dataset/mini"), help="folder of the three sets")
    parser.add_argument(
        "--weights", type=Path, default=Path("checkpoints/mini/adapters"), help="folder of mini's weights"
    )
    parser.add_argument("--base", type=Path, default=Path("checkpoints/mini/base"), help="the language model, unpacked")
    parser.add_argument("--model", type=Path, default=Path("checkpoints/mini/model"), help="the assembled checkpoint")
    parser.add_argument("--steps", type=Path, default=Path("checkpoints/mini/steps"), help="checkpoints of all steps")
    parser.add_argument(
        "--step", type=int, choices=SAVED_STEPS, default=SAVED_STEPS[-1], help="tuning step to assemble"
    )
    parser.add_argument(
        "--seed", type=RANDOM_SEED, default=SEED, help="of projector and tuning; for another, name new folders"
    )
    return parser


def assemble_step(base: Path, weights: Path, step: int, out: Path, said: int | None = None) -> None:
    """The checkpoint folder of a saved step, which is also `said` where the folder's name does not tell it."""
    vision, tuned = weights / VISION_FILE, step_folder(weights, step)
    inputs = {name: tuned / name for name in (ADAPTER_FILE, "adapter_config.json", PROJECTOR_FILE)}
    if not is_made(out, "assemble", {"base": base, "vision": vision, **inputs}, step=said):
        assemble(base, vision, tuned, out)


def assemble_steps(base: Path, weights: Path, out: Path, seed: int) -> None:
    """A checkpoint folder for the start of tuning and for every saved step."""
    vision, start = weights / VISION_FILE, step_folder(out, 0)
    if not is_made(start, "start", {"base": base, "vision": vision}, seed=seed):
        save_start(base, vision, start, seed)
    for step in SAVED_STEPS:
        assemble_step(base, weights, step, step_folder(out, step))


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        vision = args.weights / VISION_FILE
        if args.stage == "data":
            write_missing_splits(args.data)
        elif args.stage == "base" and not args.base.exists():
            export_base_language_model(args.base)
        elif args.stage == "vision" and not vision.exists():
            train_vision_tower(vision)
        elif args.stage == "tune":
            last = step_folder(args.weights, SAVED_STEPS[-1]) / PROJECTOR_FILE
            inputs = {"base": args.base, "vision": vision, "captions": args.data / CAPTIONS}
            if not is_made(last, "tune", inputs, seed=args.seed, beside=args.weights / "tuning"):
                tune(args.base, vision, args.data, args.weights, args.seed)
        elif args.stage == "assemble":
            assemble_step(args.base, args.weights, args.step, args.model, said=args.step)
        elif args.stage == "steps":
            assemble_steps(args.base, args.weights, args.steps, args.seed)


if __name__ == "__main__":
    main()
