"""Named arrays in safetensors files: reading them, and the texts beside them."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

TENSORS_MARK = "llava_hh_vti"  # metadata that says what the arrays were made of


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file; ValueError names it when it is damaged, or of a type that numpy lacks."""
    try:
        return load_file(path)
    except (SafetensorError, TypeError) as error:
        raise ValueError(f"{path}: damaged or cut off ({error}); delete it and give the same command again") from None


def read_metadata(path: Path) -> dict[str, str]:
    """The texts of a safetensors file by name; ValueError names it when it is damaged."""
    try:
        with safe_open(path, "numpy") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or cut off ({error})") from None
