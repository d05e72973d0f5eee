"""An original LLaVA checkpoint written in the transformers layout, one shard in memory at a time."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from llava_hh.files.files import write_json
from llava_hh.files.parts import folder_part_of
from llava_hh.files.progress import progress
from llava_hh.models.original import Original, open_original
from llava_hh.models.weight_files import StoredTensor, WithRows

SHARD_BYTES = 2 * 2**30


def convert_original(folder: Path, out: Path, dtype: torch.dtype | None = None) -> None:
    """Write weights, configuration and processor of an original checkpoint; `out` appears complete or not at all.

    Args:
        dtype: of the weights that are written; None is the checkpoint's own.
    Raises:
        FileExistsError: `out` is there.
        OSError, ValueError: as `open_original`; or the disk is full.
    """
    if out.exists():
        raise FileExistsError(f"--out {out}: is there already; choose another folder or delete it")
    original = open_original(folder)
    dtype = dtype or original.config.dtype
    with folder_part_of(out) as part:
        try:
            write_shards(original, part, dtype)
        except SafetensorError as error:
            raise OSError(f"--out {out}: could not be written ({error})") from None
        original.config.architectures, original.config.dtype = [original.model_class.__name__], dtype
        original.config.save_pretrained(part)
        original.generation_config.save_pretrained(part)
        original.processor.save_pretrained(part)


def write_shards(original: Original, folder: Path, dtype: torch.dtype) -> None:
    """The weights in safetensors files of SHARD_BYTES at most (a larger tensor has its own), and their index."""
    shards = plan_shards(original, dtype)
    places, total = {}, sum(n_bytes(original, name, dtype) for shard in shards for name in shard)
    with progress("weights", "B", total=total, unit_scale=True) as bar:
        for number, names in enumerate(shards, 1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            write_shard({name: original.tensors[name] for name in names}, folder / file, dtype)
            places |= dict.fromkeys(names, file)
            bar.update(sum(n_bytes(original, name, dtype) for name in names))
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def write_shard(stored: dict[str, StoredTensor | WithRows], path: Path, dtype: torch.dtype) -> None:
    save_file(
        {name: tensor[...].to(dtype).contiguous() for name, tensor in stored.items()}, path, metadata={"format": "pt"}
    )
    for tensor in stored.values():
        tensor.file.close()


def plan_shards(original: Original, dtype: torch.dtype) -> list[list[str]]:
    """Names by shard, in the order of the files that they are read from."""
    shards: list[list[str]] = [[]]
    room = SHARD_BYTES
    for name in sorted(original.tensors, key=lambda name: str(original.tensors[name].file.path)):
        needed = n_bytes(original, name, dtype)
        if shards[-1] and needed > room:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(name)
        room -= needed
    return shards


def n_bytes(original: Original, name: str, dtype: torch.dtype) -> int:
    return torch.Size(original.tensors[name].shape).numel() * dtype.itemsize
