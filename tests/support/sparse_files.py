"""Weight files with the names and sizes of real ones, and holes for numbers: they take hardly any disk."""

import json
from math import prod
from pathlib import Path

BYTES = {"F16": 2, "BF16": 2, "F32": 4}
SHARD = 5 * 10**9
Shapes = dict[str, tuple[int, ...]]


def write_sparse(path: Path, shapes: Shapes, dtype: str) -> int:
    """A safetensors file of these tensors; its number of bytes behind the header."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + BYTES[dtype] * prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return end


def write_shards(folder: Path, shapes: Shapes, dtype: str) -> int:
    """The same in files of SHARD bytes and their index, as large models are published; the bytes of all tensors."""
    shards: list[Shapes] = [{}]
    for name, shape in shapes.items():
        held = sum(BYTES[dtype] * prod(own) for own in shards[-1].values())
        if shards[-1] and held + BYTES[dtype] * prod(shape) > SHARD:
            shards.append({})
        shards[-1][name] = shape
    places, size = {}, 0
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        size += write_sparse(folder / file, shard, dtype)
        places |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": size}, "weight_map": places})
    )
    return size


def read_shapes(path: Path) -> Shapes:
    """A file of `{name: [type, shape]}`, as the headers of the hub's safetensors files have them."""
    return {name: tuple(shape) for name, (_, shape) in json.loads(path.read_text()).items()}


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * 'a'}\nsize 9976634558\n"
