"""Make mini: its data sets, its checkpoint, or (hours) its weights from nothing. Every stage skips what is there."""

import argparse
from pathlib import Path

from llava_hh.command_line import RANDOM_SEED, errors_in_one_line, script_parser
from llava_hh.mini.dataset import write_missing_splits
from llava_hh.mini.model import PROJECTOR_FILE, VISION_FILE, assemble, export_base_language_model
from llava_hh.mini.tuning import SAVED_STEPS, SEED, save_start, step_folder, tune
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


def assemble_steps(base: Path, weights: Path, out: Path, seed: int) -> None:
    """A checkpoint folder for the start of tuning and for every saved step."""
    if not step_folder(out, 0).exists():
        save_start(base, weights / VISION_FILE, step_folder(out, 0), seed)
    for step in SAVED_STEPS:
        if not step_folder(out, step).exists():
            assemble(base, weights / VISION_FILE, step_folder(weights, step), step_folder(out, step))


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        vision, step = args.weights / VISION_FILE, step_folder(args.weights, args.step)
        if args.stage == "data":
            write_missing_splits(args.data)
        elif args.stage == "base" and not args.base.exists():
            export_base_language_model(args.base)
        elif args.stage == "vision" and not vision.exists():
            train_vision_tower(vision)
        elif args.stage == "tune" and not (step_folder(args.weights, SAVED_STEPS[-1]) / PROJECTOR_FILE).exists():
            tune(args.base, vision, args.data, args.weights, args.seed)
        elif args.stage == "assemble" and not args.model.exists():
            assemble(args.base, vision, step, args.model)
        elif args.stage == "steps":
            assemble_steps(args.base, args.weights, args.steps, args.seed)


if __name__ == "__main__":
    main()
