"""What decides the weights that a fine-tuning ends with."""

import os
from dataclasses import dataclass
from pathlib import Path

from llava_hh.files.files import read_any_json
from llava_hh.runs.settings import Settings, digest_of

OBJECTIVES = ("minimize_txt", "maximize_img", "maximize_entropy")
GRADIENTS = ("ACCELERATE_GRADIENT_CLIPPING", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS")  # what DeepSpeed does to them


@dataclass(frozen=True)
class Rules:
    """How a training goes: the flags of these names."""

    top_k: int
    random_heads: int | None
    released: bool
    objective: str
    ce_coeff: float
    attention_coeff: float
    lm_head: bool | None
    untie: bool
    steps: int
    batch_size: int
    accumulation: int
    learning_rate: float
    warmup: float
    max_length: int
    seed: int
    skip_bad: bool
    gradient_checkpointing: bool
    log_every: int
    save_every: int


@dataclass(frozen=True)
class FineTuningSettings(Rules, Settings):
    """What decides the trained rows.

    Args:
        model, data: what `describe_loaded` and `identify` return; images: one sha256 over the files of all samples;
            mixed_precision: of `accelerate launch`; sharding: what the function of that name returns.
    """

    model: dict
    heads: list[list[int]]
    data: dict
    images: dict
    image_folder: str
    mixed_precision: str
    sharding: str | dict

    def free(self) -> dict[str, str]:
        return {
            "image_folder": "images are known by their content",
            "gradient_checkpointing": "the same activations, computed twice",
            "log_every": "the log is of the same steps, in other rows",
            "save_every": "a training goes on from a checkpoint as if it had not stopped",
        }


def sharding() -> str | dict:
    """What shards the weights or the optimizer's state over devices: "no", "fsdp", or DeepSpeed with its configuration.

    Each keeps other states in checkpoints. DeepSpeed's configuration may clip gradients, or bring another optimizer.
    """
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        return "fsdp"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") != "true":
        return "no"
    options = {
        name.removeprefix("ACCELERATE_").lower(): value
        for name, value in os.environ.items()
        if name in GRADIENTS or (name.startswith("ACCELERATE_DEEPSPEED_") and not name.endswith("_PATH"))
    }
    file = Path(options.pop("deepspeed_config_file", "none"))
    if str(file) != "none":
        options["deepspeed_config_file"] = {"name": file.name, "sha256": digest_of(read_any_json(file))}
    return {"by": "deepspeed", **options}


def mixed_precision() -> str:
    return os.environ.get("ACCELERATE_MIXED_PRECISION") or "no"
