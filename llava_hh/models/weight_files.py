"""Weight files of a checkpoint folder, safetensors or torch's .bin: what they hold, read tensor by tensor."""

import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from llava_hh.files.files import read_any_json, read_json, refuse_pointer, without_advice

WHOLE = ("model.safetensors", "pytorch_model.bin")  # or shards of these, named by an index
PROJECTOR = "mm_projector.bin"
# what transformers reads beside weights; a folder may hold other files, of any kind
DESCRIBING = ("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json")
DESCRIBING += ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
DESCRIBING += ("merges.txt", "vocab.txt", "chat_template.json", "chat_template.jinja")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "non_lora_trainables.bin")
UNREADABLE = (OSError, RuntimeError, EOFError, UnpicklingError, SafetensorError)  # how a damaged file shows itself


class WeightFile:
    """A file that is mapped into memory while it is open: bytes are read where a tensor is indexed."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def entries(self) -> dict:
        """By name, what gives a tensor when it is indexed. The first use opens the file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is damaged, cut off, a Git LFS pointer, or pickles more than tensors.
        """
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: not there, but the folder's index names it")
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

    def tensors(self) -> list["StoredTensor"]:
        return [StoredTensor(self, name) for name in self.entries]


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
class WithRows:
    """A tensor with rows of zeros behind its own, `n_rows` in all."""

    stored: StoredTensor
    n_rows: int

    def __getitem__(self, index: object) -> Tensor:
        tensor = self.stored[...]
        return torch.cat([tensor, tensor.new_zeros(self.n_rows - len(tensor), *tensor.shape[1:])])[index]

    @property
    def file(self) -> WeightFile:
        return self.stored.file

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.n_rows, *self.stored.shape[1:])


def weight_files(folder: Path) -> list[WeightFile]:
    """The files that hold a whole model, in order; none where the folder has none.

    Trainers leave other .bin files beside them (training_args.bin, mm_projector.bin), which are not looked at.

    Raises:
        ValueError: a weight index file that is not valid JSON.
    """
    for name in WHOLE:
        index = folder / f"{name}.index.json"
        if index.is_file():
            places = read_json(index).get("weight_map")
            if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
                raise ValueError(f"{index}: expected a weight_map from tensor names to files")
            return [WeightFile(folder / place) for place in sorted(set(places.values()))]
        if (folder / name).is_file():
            return [WeightFile(folder / name)]
    return []


def tensors_of(files: Iterable[WeightFile]) -> list[StoredTensor]:
    return [tensor for file in files for tensor in file.tensors()]


def check_files(folder: Path) -> None:
    """See that the files that are read of a folder in transformers' layout are themselves there, and its JSON is JSON.

    Raises:
        ValueError: a Git LFS pointer, a damaged JSON file, or an adapter beside the weights; names the file.
    """
    refuse_adapter(folder)
    for path in (folder / name for name in DESCRIBING):
        if path.is_file():
            refuse_pointer(path)
            if path.suffix == ".json":
                read_any_json(path)
    pieces = folder / "tokenizer.model"
    if pieces.is_file() and not (folder / "tokenizer.json").is_file():
        refuse_pointer(pieces)
    for file in weight_files(folder):
        if file.path.is_file():
            refuse_pointer(file.path)


def refuse_adapter(folder: Path) -> None:
    """See that no LoRA adapter lies in a checkpoint's folder.

    LLaVA's own layout would ignore it. transformers would apply it, but report then on the adapter's weights alone:
    those that the model lacks would be random, and nobody would hear of it.

    Raises:
        ValueError: names the adapter's file.
    """
    for name in ADAPTER:
        if (folder / name).is_file():
            what = "a LoRA adapter beside a model; merge it into its base model, and take that folder"
            raise ValueError(f"{folder / name}: {what}")


def refuse_wrong_weights(folder: Path, wrong: Mapping[str, Collection[str]]) -> None:
    """Say in one line which weights do not fit.

    Args:
        wrong: names by what is wrong with them ("missing", "left over").
    Raises:
        ValueError: there are such names.
    """
    parts = [f"{what}: {listed(names)}" for what, names in wrong.items() if names]
    if parts:
        raise ValueError(f"{folder}: weights {'; '.join(parts)}")


def name_unused(path: Path, names: Collection[str]) -> None:
    """Say on standard error which tensors of a file the model has no use for."""
    if names:
        tqdm.write(f"{path}: left out, since the model has no such weights: {listed(names)}", file=sys.stderr)


def listed(names: Iterable[str]) -> str:
    """Names in order, the first five of them."""
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def first_line(error: Exception) -> str:
    """What a library says of a file; the rest of it is advice."""
    return without_advice(str(error).strip().split("\n")[0] or type(error).__name__)
