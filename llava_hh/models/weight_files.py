"""Weight files of a checkpoint folder, safetensors or torch's .bin, read tensor by tensor, and matched with a model."""

import re
import sys
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llava_hh.files.files import read_any_json, read_json, without_advice
from llava_hh.files.kinds import refuse_pipe, refuse_pointer
from llava_hh.files.progress import say

WHOLE = ("model.safetensors", "pytorch_model.bin")  # or shards of these, named by an index
PROJECTOR = "mm_projector.bin"
# what transformers reads beside weights; a folder may hold other files, of any kind
DESCRIBING = ("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json")
DESCRIBING += ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
DESCRIBING += ("merges.txt", "vocab.txt", "chat_template.json", "chat_template.jinja")
# what processors and tokenizers are read from; a checkpoint folder may hold other JSON, which decides nothing
DESCRIBES = re.compile(
    r"(generation_config|.*processor.*|tokenizer.*|special_tokens_map|added_tokens|vocab|.*chat_template.*)"
    r"\.(json|jinja|model)|vocab\.txt|merges\.txt|config\.json|(model\.safetensors|pytorch_model\.bin)\.index\.json"
)
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "non_lora_trainables.bin")
PARTS = re.compile(r"(layers|blocks|heads|groups|experts|depth)s?$")  # of a model, as keys of a config.json count them
LARGEST = 10_000
UNREADABLE = (OSError, RuntimeError, EOFError, UnpicklingError, SafetensorError)  # how a damaged file shows itself


class WeightFile:
    """A file that is mapped into memory while it is open: bytes are read where a tensor is indexed."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def entries(self) -> dict:
        """Objects by tensor name that give the tensor when they are indexed. The first use opens the file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is damaged, cut off, a Git LFS pointer, or pickles more than tensors.
        """
        if not self.path.is_file():
            raise FileNotFoundError(
                f"{self.path}: {'not a file' if self.path.exists() else 'not there'}, but it is named as one of weights"
            )
        refuse_pointer(self.path)
        try:
            if self.path.suffix == ".safetensors":
                handle = safe_open(self.path, framework="pt")
                return {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118  # no dict
            with open(self.path, "rb") as file:
                is_zip = file.read(2) == b"PK"  # torch before 1.6 wrote another format, which cannot be mapped
            loaded = torch.load(self.path, map_location="cpu", weights_only=True, mmap=is_zip)
            if isinstance(loaded, dict) and isinstance(loaded.get("model"), dict):
                loaded = loaded["model"]  # of a .pth file
            if not isinstance(loaded, dict) or not all(isinstance(tensor, Tensor) for tensor in loaded.values()):
                raise UnpicklingError("expected tensors by name")
            return loaded
        except UNREADABLE as error:
            what = f"damaged, cut off, or not a file of tensors alone ({first_line(error)})"
            raise ValueError(f"{self.path}: {what}") from None

    def close(self) -> None:
        """Let go of the mapped pages; the next use opens the file again."""
        self.__dict__.pop("entries", None)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file. Indexing reads it, as transformers does with those of safetensors."""

    file: WeightFile
    name: str

    def __getitem__(self, index: object) -> Tensor:
        return self.file.entries[self.name][index]

    @property
    def shape(self) -> tuple[int, ...]:
        entry = self.file.entries[self.name]
        return tuple(entry.shape if isinstance(entry, Tensor) else entry.get_shape())

    @property
    def dtype(self) -> torch.dtype:
        return (self[:0] if self.shape else self[...]).dtype


@dataclass(frozen=True)
class ComputedTensor:
    """A tensor of this shape that `compute` makes of a stored one when it is indexed."""

    stored: StoredTensor
    shape: tuple[int, ...]
    compute: Callable[[Tensor], Tensor]

    def __getitem__(self, index: object) -> Tensor:
        return self.compute(self.stored[...])[index]

    @property
    def file(self) -> WeightFile:
        return self.stored.file


Stored = StoredTensor | ComputedTensor


def weight_files(folder: Path) -> list[WeightFile]:
    """The files that hold a whole model, in order; none where the folder has none.

    Trainers leave other .bin files beside them (training_args.bin, mm_projector.bin), which are not looked at.

    Raises:
        ValueError: a weight index file that is not valid JSON.
    """
    for name in WHOLE:
        index = folder / f"{name}.index.json"
        if index.is_file():
            return [WeightFile(folder / shard) for shard in shards_of(index)]
        if (folder / name).is_file():
            return [WeightFile(folder / name)]
    return []


def shards_of(index: Path) -> list[str]:
    """The names of the files that an index of weights names, in order.

    Raises:
        FileNotFoundError: no such index.
        ValueError: it is not valid JSON, or not an index.
    """
    return sorted(set(weight_map(index).values()))


def weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, by an index of weights; raises as `shards_of`."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise ValueError(f"{index}: expected a weight_map from tensor names to files")
    return shards


def tensors_of(files: Iterable[WeightFile]) -> list[StoredTensor]:
    return [StoredTensor(file, name) for file in files for name in file.entries]


def check_files(folder: Path) -> None:
    """Check that the files that transformers reads from a folder are no Git LFS pointers, and their JSON is valid.

    Raises:
        ValueError: a Git LFS pointer, a damaged JSON file, or an adapter beside the weights; names the file.
    """
    refuse_adapter(folder)
    read = [folder / name for name in DESCRIBING]
    read += [] if (folder / "tokenizer.json").is_file() else [folder / "tokenizer.model"]
    for path in filter(Path.exists, [*read, *(file.path for file in weight_files(folder))]):
        refuse_pipe(path)
        refuse_pointer(path)
        content = read_any_json(path) if path.suffix == ".json" else None
        if path.name == "config.json":  # a tokenizer's vocabulary may have such words too
            refuse_huge(path, content)


def refuse_huge(path: Path, content: Any) -> None:
    """Check that a configuration, at any depth, asks for no more layers and heads than a model can have.

    Raises:
        ValueError: it does, so that building the model would take hours or all memory; names file and key.
    """
    if isinstance(content, list):
        content = dict(enumerate(content))
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, dict | list):
            refuse_huge(path, value)
        elif isinstance(value, int | float) and value > LARGEST and PARTS.search(str(key)):
            raise ValueError(f"{path}: {key} is {value:,}; expected at most {LARGEST:,}")


def refuse_adapter(folder: Path) -> None:
    """Refuse a LoRA adapter in a checkpoint's folder.

    LLaVA's own layout would ignore it. transformers would apply it, but then report on the adapter's weights alone:
    weights that the model lacks would be random without a warning.

    Raises:
        ValueError: names the adapter's file.
    """
    for path in (folder / name for name in ADAPTER):
        if path.is_file():
            what = "a LoRA adapter beside a model; merge it into its base model, and take that folder"
            raise ValueError(f"{path}: {what}")


def renamed(name: str, beginnings: Mapping[str, str]) -> str:
    """A tensor's name in a model: the first of `beginnings` that fits is replaced."""
    begin = next(filter(name.startswith, beginnings), "")
    return beginnings.get(begin, "") + name.removeprefix(begin)


def take_weights(
    source: Path,
    stored: Mapping[str, Stored],
    targets: Mapping[str, str],
    expected: Mapping[str, Tensor],
    needed: Collection[str],
    spare: Container[str],
) -> dict[str, Stored]:
    """The stored tensors by their names in the model; spare ones are named on standard error and left out.

    Args:
        source: the file or folder that errors name.
        targets: the name in the model of each name in `stored`.
        expected: the weights of the model, of which shapes are read.
        needed: names in the model that have to be there.
        spare: names in `stored` that the model may lack.
    Raises:
        ValueError: names that are missing or left over, or a tensor of another shape.
    """
    missing = set(needed) - set(targets.values())
    unknown = [name for name, target in targets.items() if target not in expected]
    if missing or any(name not in spare for name in unknown):
        refuse_wrong_weights(source, {"missing": missing, "left over": unknown})
    if unknown:
        path = stored[unknown[0]].file.path
        say(f"{path}: left out, since the model has no such weights: {listed(unknown)}", file=sys.stderr)
    taken = {}
    for name, target in targets.items():
        if target in expected:
            tensor, shape = stored[name], tuple(expected[target].shape)
            if tensor.shape != shape:
                raise ValueError(f"{tensor.file.path}: {name} has shape {tensor.shape}; the model needs {shape}")
            taken[target] = tensor
    return taken


def refuse_wrong_weights(source: Path, wrong: Mapping[str, Collection[str]]) -> None:
    """Refuse weights that do not fit, in one line.

    Args:
        wrong: names by what is wrong with them ("missing", "left over").
    Raises:
        ValueError: there are such names.
    """
    if parts := [f"{what}: {listed(names)}" for what, names in wrong.items() if names]:
        raise ValueError(f"{source}: weights {'; '.join(parts)}")


def listed(names: Iterable[str]) -> str:
    """Names in order, the first five of them."""
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def first_line(error: Exception) -> str:
    """The first line of a library's error; the rest of it is advice."""
    return without_advice(str(error).strip().split("\n")[0] or type(error).__name__)
