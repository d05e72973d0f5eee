"""Vectors that a model is steered by, in one safetensors file that says what they were made of."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from llava_hh.data.rows import existing_file
from llava_hh.files.files import parse_json, write_tensors
from llava_hh.files.progress import announce
from llava_hh.files.tensors import TENSORS_MARK, read_metadata, read_tensors
from llava_hh.heads import PUBLISHED, architecture, architecture_in_words
from llava_hh.models.lvlm import Lvlm
from llava_hh.runs.identity import why_foreign
from llava_hh.steering.tower import tower_of

FOLDER = "vti"  # of published files, below that of head lists
NAME = "published"  # stands for the file that was published for a model
FINDER = "llava-hh prepare-vti"


@dataclass(frozen=True)
class Bank:
    """Vectors by layer, float32, and what they were made of.

    text: (layer, d_model), for the decoder's layers; image: (layer, token, width), for those of the vision tower, None
    where it has none; made: `architecture` and `settings` (`model` among them), and the run's provenance.
    """

    text: np.ndarray
    image: np.ndarray | None
    made: Mapping[str, Any]


def write_bank(path: Path, bank: Bank) -> None:
    """Write a bank, atomically; a file that says the same stays, for methods are held to its content."""
    if path.is_file() and _says_the_same(path, bank):
        announce(f"{path} has the same vectors already, made on {_made(path).get('date', 'another day')}")
        return
    arrays = {"text": bank.text} | ({} if bank.image is None else {"image": bank.image})
    write_tensors(path, arrays, {TENSORS_MARK: json.dumps(bank.made)})


def _says_the_same(path: Path, bank: Bank) -> bool:
    with suppress(ValueError, OSError):
        made, arrays = _made(path), read_tensors(path)
        same = all(made[name] == parse_json(json.dumps(bank.made[name])) for name in ("architecture", "settings"))
        image = arrays.get("image")
        same &= np.array_equal(arrays.get("text"), bank.text) and (image is None) == (bank.image is None)
        return same and (image is None or np.array_equal(image, bank.image))
    return False


def bank_path(source: str, lvlm: Lvlm) -> Path:
    """The file of a bank.

    Args:
        source: a file, or "published" for that of this model's architecture (a model that was tuned further fits).
    Raises:
        ValueError: no such file, one that was made on another model, or none was published.
    """
    if source == NAME:
        return _published(lvlm.model)
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"vectors={source}: no such file; expected one that {FINDER} makes, or published")
    if why := why_foreign(_made(path)["settings"].get("model"), lvlm.path):
        raise ValueError(f"vectors={path}: {why}; make this model's by {FINDER}")
    return path


def _published(model: PreTrainedModel) -> Path:
    shape = architecture(model.config)
    files = sorted((PUBLISHED / FOLDER).glob("*.safetensors"))
    if fitting := [path for path in files if _made(path)["architecture"] == shape]:
        return fitting[0]
    known = ", ".join(path.stem for path in files)
    what = f"no vectors are published for {architecture_in_words(shape)}"
    raise ValueError(f"{what}: make some by {FINDER}, and name them as vectors=FILE; there are {known or 'none'}")


def read_bank(source: str | Path, model: PreTrainedModel) -> Bank:
    """Read a bank for a model: a file, or "published" for that of its architecture.

    Raises:
        ValueError: a file that is damaged, or has not the arrays that fit the model; one line that names it.
        OSError: it cannot be read.
    """
    path = _published(model) if source == NAME else Path(source)
    made, arrays = _content(path, path.stat().st_mtime_ns if path.is_file() else 0)
    shapes = {"text": (model.config.get_text_config().num_hidden_layers, model.config.get_text_config().hidden_size)}
    if "image" in arrays and (tower := tower_of(model)):
        shapes["image"] = tower.shape
    for name in sorted({*arrays, *shapes}):
        array, expected = arrays.get(name), shapes.get(name)
        if array is None or array.shape != expected or array.dtype != np.float32 or not np.isfinite(array).all():
            found = "missing" if array is None else f"{array.dtype} {array.shape}"
            of = "this model has none" if expected is None else f"expected finite float32 {expected}"
            raise ValueError(f"{path}: the vectors {name!r} are {found}; {of}; make them anew by {FINDER}")
    return Bank(arrays["text"], arrays.get("image"), made)


@lru_cache(maxsize=1)  # a comparison asks for it once a batch
def _content(path: Path, mtime_ns: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return _made(path), read_tensors(path)


def _made(path: Path) -> dict[str, Any]:
    """What a bank was made of, by its metadata."""
    said = read_metadata(existing_file(path, f"one that {FINDER} makes"))
    with suppress(ValueError, KeyError, TypeError):
        made = parse_json(said[TENSORS_MARK])
        if all(isinstance(made[name], dict) for name in ("architecture", "settings")):
            return made
    raise ValueError(f"{path}: does not say what it was made of; expected a file that {FINDER} makes")
