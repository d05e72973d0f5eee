"""How much memory a checkpoint's weights take, from the headers of its files, and how much the machine has free."""

from dataclasses import replace
from math import prod
from pathlib import Path

import psutil
import torch

from llava_hh.models import checkpoint
from llava_hh.models.families import FAMILIES
from llava_hh.models.loading import Loading
from llava_hh.models.original_fields import is_original, part_of, read_fields
from llava_hh.models.weight_files import StoredTensor

MAIN_PARTS = ("language_model", "model")


def stored_tensors(path: Path) -> list[StoredTensor]:
    """The tensors that a checkpoint is loaded from, wherever its parts lie; their files are opened, but not read.

    Where a folder has its weights in two formats, they are those that are loaded.

    Raises:
        FileNotFoundError: no weights, or a part that is not there.
        ValueError: a file that is damaged or a Git LFS pointer.
    """
    family = FAMILIES.get(checkpoint.model_type_of(path))
    if not (tensors := getattr(family, "stored_tensors", checkpoint.stored_tensors)(path)):
        raise FileNotFoundError(f"{path}: no weight files there")
    return tensors


def loaded_bytes(path: Path, loading: Loading) -> float:
    """What the weights take in memory, in bytes: in the type that `loading` names, the config's, or that of the files.

    Quantized weights count as `bits` each, though embeddings and norms stay as they are; so it is an estimate.
    """
    fields, language = read_fields(path), _fields_of_part(path)
    dtype = getattr(torch, str(loading.dtype or _config_dtype(fields) or _config_dtype(language)), None)
    return sum(
        prod(tensor.shape) * (loading.bits / 8 if loading.bits else (dtype or tensor.dtype).itemsize)
        for tensor in stored_tensors(path)
    )


def _fields_of_part(path: Path) -> dict:
    """The config.json of the part that says in which type all are loaded; empty where a model is not in parts."""
    parts = read_fields(path).get("parts")
    named = {name: where for name, where in parts.items() if name in MAIN_PARTS} if isinstance(parts, dict) else {}
    return next((read_fields(part_of(path, name, where)) for name, where in named.items()), {})


def _config_dtype(fields: dict) -> str | None:
    """The type of weights that config.json names at its top, or for its language model."""
    text = fields.get("text_config")
    said = [part.get(key) for part in (fields, text) if isinstance(part, dict) for key in ("dtype", "torch_dtype")]
    return next(filter(None, said), None)


def free_memory(loading: Loading) -> tuple[float, str]:
    """Bytes, and where: on the GPU or the CPU, or on all GPUs and the CPU if `loading` spreads layers over them."""
    ram = psutil.virtual_memory().available
    if not torch.cuda.is_available():
        return ram, "CPU"
    free = [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]
    return (sum(free) + ram, "GPUs and the CPU") if loading.device_map == "auto" else (free[0], "GPU")


def can_use_disk(path: Path) -> bool:
    """Whether layers can stay on the disk: transformers reads them there from safetensors in its layout."""
    return not is_original(_fields_of_part(path) or read_fields(path)) and all(
        tensor.file.path.suffix == ".safetensors" for tensor in stored_tensors(path)
    )


def advice(path: Path, loading: Loading) -> str:
    """What would take less memory than `loading`; what is set already is not advised again."""
    smaller = {"DTYPE=bfloat16": replace(loading, dtype="bfloat16"), "BITS=4": replace(loading, bits=4)}
    size = loaded_bytes(path, loading)
    ways = ["DEVICE_MAP=auto"] * (loading.device_map != "auto")
    ways += [way for way, other in smaller.items() if loaded_bytes(path, other) < size]
    chosen = f"Set {' or '.join(filter(None, [', '.join(ways[:-1]), ways[-1]]))}, or take" if ways else "Take"
    disk = "; the disk serves only the transformers layout in safetensors (llava-hh convert)"
    needs_layout = loading.device_map == "auto" and not can_use_disk(path)
    return f"{chosen} a smaller model{disk if needs_layout else ''}."
