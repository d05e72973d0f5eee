"""The layout of a checkpoint by its config.json, LLaVA's or transformers', and the files of LLaVA's layout.

Nothing here imports transformers.
"""

from collections.abc import Iterable
from pathlib import Path

from llava_hh.files.files import read_json
from llava_hh.models.hub_cache import cached
from llava_hh.models.hub_id import read_id
from llava_hh.models.weight_files import PROJECTOR, WeightFile, refuse_adapter, weight_files

MODEL_TYPES = ("llava", "llava_llama")  # later versions of LLaVA write the second; both have Llama inside
# fields that change what the model computes, and the values of them that transformers' classes can follow
SUPPORTED = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch", "cls_patch"),
    "mm_use_im_start_end": (False,),
    "mm_use_im_patch_token": (False,),
}
SUPPORTED_WITH_TILES = {"mm_patch_merge_type": ("spatial_unpad",)}  # of LLaVA-1.6
# beginning of the names of a vision tower's tensors; source: LLaVA's modules
TOWER = "model.vision_tower.vision_tower.vision_model."
# openai's vision tower; a checkpoint that holds its weights is complete without the folder that describes it
KNOWN_TOWERS = {
    "clip-vit-large-patch14-336": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    }
}


def read_fields(folder: Path) -> dict:
    """A checkpoint's config.json.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there is an adapter alone.
    """
    if not (folder / "config.json").is_file():
        refuse_adapter(folder)
        raise FileNotFoundError(f"{folder}: no config.json there; expected a folder with a checkpoint")
    return read_json(folder / "config.json")


def part_of(folder: Path, part: str, named: object) -> Path:
    """The file or folder of a part that the config.json of `folder` names: one path, or several of which one is there.

    Raises:
        FileNotFoundError: none of them is there.
    """
    paths = [folder / str(path) for path in (named if isinstance(named, list) else [named])]
    for path in paths:
        if path.exists():
            return path
    raise FileNotFoundError(f"{' or '.join(map(str, paths))}: not there; the checkpoint's {part} is expected there")


def is_original(fields: dict) -> bool:
    """Whether a config.json is LLaVA's own; llava-hf's has the same model_type, but describes the tower itself."""
    return "mm_vision_tower" in fields and "vision_config" not in fields


def check_supported(folder: Path, fields: dict) -> None:
    """Refuse LLaVAs with other parts than those of 1.5 and 1.6.

    Raises:
        ValueError: names the field, its value and what was expected.
    """
    if (model_type := fields.get("model_type")) not in MODEL_TYPES:
        expected = " or ".join(MODEL_TYPES)
        raise ValueError(f"{folder}: an original LLaVA of model type {model_type!r}; expected {expected}")
    has_tiles = uses_tiles(fields)
    for name in ("vocab_size", *["image_grid_pinpoints"] * has_tiles):
        if name not in fields:
            raise ValueError(f"{folder / 'config.json'}: no {name} there")
    said = {"mm_patch_merge_type": None, **fields}
    for name, values in (SUPPORTED | SUPPORTED_WITH_TILES if has_tiles else SUPPORTED).items():
        if (value := said.get(name, values[0])) not in values:
            raise ValueError(f"{folder}: {name} {value!r} is not supported; expected {' or '.join(map(repr, values))}")
    if has_tiles and not isinstance(pinpoints := fields["image_grid_pinpoints"], list):
        raise ValueError(f"{folder}: image_grid_pinpoints {pinpoints!r} is not supported; expected a list of pairs")


def uses_tiles(fields: dict) -> bool:
    """Whether it is a LLaVA-1.6, which sees an image whole and in tiles.

    All others see a square, whatever they say: "square" stands in the config of a projector's training.
    """
    return str(fields.get("image_aspect_ratio")).startswith("anyres")


def find_folder(name: str, checkpoint: Path, field: str) -> Path:
    """The folder that a field of config.json means: a path, or a name of the hub.

    The last part of such a name is looked for near the checkpoint and in checkpoints/, the whole in the hub's cache.

    Raises:
        FileNotFoundError: says where it was expected.
    """
    last = Path(name).name
    for folder in (Path(name), checkpoint.parent / last, checkpoint.parent.parent / last, Path("checkpoints") / last):
        if (folder / "config.json").is_file():
            return folder
    if (hub_id := read_id(name)) and (found := cached(hub_id)):
        return found
    raise FileNotFoundError(
        f"{checkpoint}: its {field} is {name!r}; download it to checkpoints/{last}, or put its path into config.json"
    )


def tower_folder(folder: Path, fields: dict, is_inside: bool) -> Path | None:
    """The folder that describes the vision tower, None for a known one whose weights the checkpoint holds.

    Raises:
        FileNotFoundError: no such folder.
    """
    name = str(fields["mm_vision_tower"])
    return None if is_inside and Path(name).name in KNOWN_TOWERS else find_folder(name, folder, "mm_vision_tower")


def has_tower(files: Iterable[WeightFile]) -> bool:
    """Whether a checkpoint's files hold its vision tower."""
    return any(name.startswith(TOWER) for file in files for name in file.entries)


def language_files(folder: Path, fields: dict) -> tuple[Path, list[WeightFile]]:
    """The folder of the language model and its tokenizer, and the files of all weights but a tower's own.

    Raises:
        FileNotFoundError: no weights, or a projector without its base.
        ValueError: a projector whose base has no name, or a LoRA adapter beside the weights.
    """
    refuse_adapter(folder)
    if files := weight_files(folder):
        return folder, files
    if not (folder / PROJECTOR).is_file():
        raise FileNotFoundError(f"{folder}: no weights there; expected model.safetensors, pytorch_model.bin or shards")
    if not (name := fields.get("_name_or_path")):
        raise ValueError(f"{folder / 'config.json'}: no _name_or_path there; expected the base language model's folder")
    base = find_folder(name, folder, "base language model (_name_or_path)")
    refuse_adapter(base)
    if not (files := weight_files(base)):
        raise FileNotFoundError(f"{base}: no weights there; it is the base language model of {folder}")
    return base, [*files, WeightFile(folder / PROJECTOR)]
