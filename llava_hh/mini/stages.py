"""The stages that make mini; each skips results that exist."""

from dataclasses import dataclass
from pathlib import Path

from llava_hh.mini.dataset import write_missing_splits
from llava_hh.mini.made import is_made
from llava_hh.mini.model import PROJECTOR_FILE, VISION_FILE, assemble, export_base_language_model
from llava_hh.mini.recipe import SAVED_STEPS
from llava_hh.mini.tuning import ADAPTER_FILE, CONVERSATIONS, save_start, step_folder, tune
from llava_hh.mini.vision import train_vision_tower


@dataclass(frozen=True)
class Build:
    """The files and folders of mini's parts, and the seed and step that it is made with: the flags of these names."""

    data: Path
    weights: Path
    base: Path
    model: Path
    steps: Path
    step: int
    seed: int


def assemble_step(base: Path, weights: Path, step: int, out: Path, said: int | None = None) -> None:
    """Make the checkpoint folder of a saved step.

    Args:
        said: the step again, where the folder's name does not tell it; it is recorded.
    """
    vision, tuned = weights / VISION_FILE, step_folder(weights, step)
    inputs = {name: tuned / name for name in (ADAPTER_FILE, "adapter_config.json", PROJECTOR_FILE)}
    if not is_made(out, "assemble", {"base": base, "vision": vision, **inputs}, step=said):
        assemble(base, vision, tuned, out)


def assemble_steps(base: Path, weights: Path, out: Path, seed: int) -> None:
    """Make a checkpoint folder for the start of tuning and for every saved step."""
    vision, start = weights / VISION_FILE, step_folder(out, 0)
    if not is_made(start, "start", {"base": base, "vision": vision}, seed=seed):
        save_start(base, vision, start, seed)
    for step in SAVED_STEPS:
        assemble_step(base, weights, step, step_folder(out, step))


def make(stage: str, given: Build) -> None:
    """Make a part of mini: "data", "base", "vision", "tune", "assemble" or "steps".

    Raises:
        ValueError, FileExistsError: an existing result was made otherwise.
    """
    vision = given.weights / VISION_FILE
    if stage == "data":
        write_missing_splits(given.data)
    elif stage == "base" and not given.base.exists():
        export_base_language_model(given.base)
    elif stage == "vision" and not vision.exists():
        train_vision_tower(vision)
    elif stage == "tune":
        last = step_folder(given.weights, SAVED_STEPS[-1]) / PROJECTOR_FILE
        inputs = {"base": given.base, "vision": vision, "conversations": given.data / CONVERSATIONS}
        if not is_made(last, "tune", inputs, seed=given.seed, beside=given.weights / "tuning"):
            tune(given.base, vision, given.data, given.weights, given.seed)
    elif stage == "assemble":
        assemble_step(given.base, given.weights, given.step, given.model, said=given.step)
    elif stage == "steps":
        assemble_steps(given.base, given.weights, given.steps, given.seed)
