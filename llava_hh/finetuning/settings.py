"""What decides the weights that a fine-tuning ends with."""

import os
from dataclasses import dataclass

from llava_hh.identity import digest_of
from llava_hh.settings import Settings, compared


@dataclass(frozen=True)
class FineTuningSettings(Settings):
    """What decides the trained rows.

    Args:
        model: as `describe_loaded`; data: as `identify`; images: the sha256 of the files of all samples that are drawn,
            in all; mixed_precision, sharding: as `accelerate launch` says; others: as the flags.
    """

    model: dict
    heads: list[list[int]]
    data: dict
    images: dict
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
    mixed_precision: str
    sharding: str
    image_folder: str
    gradient_checkpointing: bool
    log_every: int
    save_every: int

    def free(self) -> dict[str, str]:
        return {
            "image_folder": "images are known by their content",
            "gradient_checkpointing": "the same activations, computed twice",
            "log_every": "the log is of the same steps, in other rows",
            "save_every": "a training goes on from a checkpoint as if it had not stopped",
        }


def sharding() -> str:
    """What cuts the weights or the optimizer's state over devices; each keeps states of its own in checkpoints."""
    return next(
        (each for each in ("fsdp", "deepspeed") if os.environ.get(f"ACCELERATE_USE_{each.upper()}") == "true"), "no"
    )


def mixed_precision() -> str:
    return os.environ.get("ACCELERATE_MIXED_PRECISION") or "no"


def digest_of_settings(settings: FineTuningSettings) -> str:
    """A digest of all that is compared when a training goes on."""
    return digest_of(
        compared({name: value for name, value in settings.record().items() if name not in settings.free()})
    )
