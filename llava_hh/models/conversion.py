"""An original LLaVA checkpoint written in the transformers layout, one shard in memory at a time."""

import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from llava_hh.files.files import write_json
from llava_hh.files.parts import folder_part_of
from llava_hh.files.progress import progress
from llava_hh.models.original import open_original
from llava_hh.models.original_fields import language_files, read_fields
from llava_hh.models.weight_files import Stored

SHARD_BYTES = 2 * 2**30


def convert_original(folder: Path, out: Path, dtype: torch.dtype | None = None) -> None:
    """Write weights, configuration and processor of an original checkpoint; `out` appears complete or not at all.

    Args:
        dtype: of the weights that are written; None is the checkpoint's.
    Raises:
        FileExistsError: `out` is there.
        FileNotFoundError: a part of the checkpoint that is not there.
        ValueError: another model, a damaged file, or weights that do not fit.
        OSError: the disk is full.
    """
    if out.exists():
        raise FileExistsError(f"--out {out}: is there already; choose another folder or delete it")
    model, processor, weights = open_original(folder)
    dtype = dtype or model.config.dtype
    with folder_part_of(out) as part:
        try:
            write_shards({_name_in_version_4(name): tensor for name, tensor in weights.items()}, part, dtype)
        except SafetensorError as error:
            raise OSError(f"--out {out}: could not be written ({error})") from None
        model.config.architectures, model.config.dtype = [type(model).__name__], dtype
        # transformers 4 reads it here, and takes 10,000 where it is not said; Yi's is 5,000,000
        model.config.text_config.rope_theta = model.config.text_config.rope_parameters["rope_theta"]
        for described in (model.config, model.generation_config, processor):
            described.save_pretrained(part)
        base, _ = language_files(folder, read_fields(folder))
        shutil.copyfile(base / "tokenizer.model", part / "tokenizer.model")
        serve_version_4(part / "tokenizer_config.json", processor.tokenizer)


def serve_version_4(path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Say in tokenizer_config.json what transformers 4 reads there, 5 elsewhere: special tokens, and a BOS or none."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["additional_special_tokens"] = settings.pop("extra_special_tokens", [])
    settings["add_bos_token"] = tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _name_in_version_4(name: str) -> str:
    """A tensor's name that transformers 4 and 5 read; by those of 5, 4 leaves the tower random."""
    tower = "model.vision_tower."
    return name.replace(tower, f"{tower}vision_model.", 1) if name.startswith(tower) else name


def write_shards(tensors: dict[str, Stored], folder: Path, dtype: torch.dtype) -> None:
    """The weights in safetensors files of SHARD_BYTES at most (a larger tensor has its own), and their index."""
    n_bytes = {name: torch.Size(tensor.shape).numel() * dtype.itemsize for name, tensor in tensors.items()}
    shards, filled = [[]], 0
    for name in sorted(tensors, key=lambda name: str(tensors[name].file.path)):  # in the order of reading
        if shards[-1] and filled + n_bytes[name] > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += n_bytes[name]
    file_of, total = {}, sum(n_bytes.values())
    with progress("weights", "B", total=total, unit_scale=True) as bar:
        for number, names in enumerate(shards, 1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            read = ((name, tensors[name][...]) for name in names)
            save_file({name: tensor.to(dtype).contiguous() for name, tensor in read}, folder / file, {"format": "pt"})
            for name in names:
                tensors[name].file.close()
            file_of |= dict.fromkeys(names, file)
            bar.update(sum(n_bytes[name] for name in names))
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": file_of})
