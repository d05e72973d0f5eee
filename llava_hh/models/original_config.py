"""What an original LLaVA checkpoint says of itself, in transformers' terms: configuration, tokenizer, processor.

Original: liuhaotian/llava-v1.5-7b and -13b, llava-v1.6-34b, and what LLaVA's trainer writes.
"""

from dataclasses import fields as fields_of
from pathlib import Path

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2
from transformers import (
    AddedToken,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedConfig,
)

from llava_hh.files import read_json, refuse_pointer
from llava_hh.models.token_ids import read_token_ids
from llava_hh.models.weight_files import refuse_adapter
from llava_hh.models.without_code import from_folder

IMAGE_TOKEN = "<image>"
MODEL_TYPES = ("llava", "llava_llama")  # later versions of LLaVA write the second; both have Llama inside
# fields that change what the model computes, and the values of them that transformers' classes can follow
SUPPORTED = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch", "cls_patch"),
    "mm_use_im_start_end": (False,),
    "mm_use_im_patch_token": (False,),
}
# of the language model: not what every configuration has (architectures, dtype), nor use_cache, off in training
LLAMA_FIELDS = {field.name for field in fields_of(LlamaConfig)} - {field.name for field in fields_of(PreTrainedConfig)}
LLAMA_FIELDS = (LLAMA_FIELDS - {"use_cache"}) | {"rope_theta", "rope_scaling"}  # rope_parameters in transformers 5
# openai's; a checkpoint that holds its vision tower is complete without the folder that describes it
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


def is_original(fields: dict) -> bool:
    """Whether a config.json is LLaVA's own; llava-hf's has the same model_type, but describes the tower itself."""
    return "mm_vision_tower" in fields and "vision_config" not in fields


def check_supported(folder: Path, fields: dict) -> None:
    """Refuse LLaVAs with other parts than those of 1.5 and 1.6.

    Raises:
        ValueError: names the field, its value and what was expected.
    """
    if fields.get("model_type") not in MODEL_TYPES:
        expected = " or ".join(MODEL_TYPES)
        raise ValueError(f"{folder}: an original LLaVA of model type {fields.get('model_type')!r}; expected {expected}")
    needed = ["vocab_size", *["image_grid_pinpoints"] * uses_tiles(fields)]
    if absent := [name for name in needed if name not in fields]:
        raise ValueError(f"{folder / 'config.json'}: no {absent[0]} there")
    for name, values in SUPPORTED.items():
        if (value := fields.get(name, values[0])) not in values:
            raise ValueError(f"{folder}: {name} {value!r} is not supported; expected {' or '.join(map(repr, values))}")
    if uses_tiles(fields):
        pinpoints, merge = fields["image_grid_pinpoints"], fields.get("mm_patch_merge_type")
        if merge != "spatial_unpad":
            raise ValueError(f"{folder}: mm_patch_merge_type {merge!r} is not supported; expected 'spatial_unpad'")
        if not isinstance(pinpoints, list):
            raise ValueError(f"{folder}: image_grid_pinpoints {pinpoints!r} is not supported; expected a list of pairs")


def uses_tiles(fields: dict) -> bool:
    """Whether it is a LLaVA-1.6, which sees an image whole and in tiles.

    All others see a square, whatever they say: "square" stands in the config of a projector's training.
    """
    return str(fields.get("image_aspect_ratio")).startswith("anyres")


def find_folder(name: str, checkpoint: Path, field: str) -> Path:
    """The folder that a field of config.json means: a path, or the last part of a hub's name, at checkpoints/ or near.

    Raises:
        FileNotFoundError: says where it was expected.
    """
    last = Path(name).name
    for folder in (Path(name), checkpoint.parent / last, checkpoint.parent.parent / last, Path("checkpoints") / last):
        if (folder / "config.json").is_file():
            return folder
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


def vision_config(folder: Path, fields: dict, is_inside: bool) -> tuple[CLIPVisionConfig, Path | None]:
    """The vision tower's configuration, and the folder of its weights, None where the checkpoint holds them.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: the tower is no CLIP.
    """
    tower = tower_folder(folder, fields, is_inside)
    if tower is None:
        return CLIPVisionConfig(**KNOWN_TOWERS[Path(str(fields["mm_vision_tower"])).name]), None
    model_type = read_json(tower / "config.json").get("model_type")
    if model_type not in ("clip", "clip_vision_model"):
        raise ValueError(f"{tower}: a vision tower of model type {model_type!r}; expected clip")
    return from_folder(CLIPVisionConfig, tower), None if is_inside else tower


def load_tokenizer(folder: Path) -> LlamaTokenizer:
    """The tokenizer by its tokenizer.model, as LLaVA uses it, and a token for the image behind its own.

    transformers 5 would begin every text with a blank, which Yi's (of LLaVA-1.6-34B) is trained without, and no text
    with a BOS where tokenizer_config.json does not say so.

    Raises:
        FileNotFoundError: no tokenizer.model.
        ValueError: it cannot be read, or is a Git LFS pointer.
    """
    path = folder / "tokenizer.model"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; it comes with the checkpoint and with its base language model")
    refuse_pointer(path)
    pieces = sentencepiece_model_pb2.ModelProto()
    try:
        pieces.ParseFromString(path.read_bytes())
    except DecodeError:
        raise ValueError(f"{path}: damaged or cut off; expected a sentencepiece model") from None
    settings = folder / "tokenizer_config.json"
    begins = read_json(settings).get("add_bos_token", True) if settings.is_file() else True
    tokenizer = from_folder(
        LlamaTokenizer, folder, add_prefix_space=pieces.normalizer_spec.add_dummy_prefix, add_bos_token=begins
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token
    tokenizer.chat_template = None  # of the language model; LLaVA has its own prompts
    tokenizer.add_tokens(AddedToken(IMAGE_TOKEN, special=True, normalized=False))
    return tokenizer


def model_config(fields: dict, vision: CLIPVisionConfig, tokenizer: LlamaTokenizer) -> LlavaConfig | LlavaNextConfig:
    """The configuration of the same model in transformers; its vocabulary has a row for the image token."""
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    text = {name: fields[name] for name in LLAMA_FIELDS if name in fields}
    text["vocab_size"] = max(fields["vocab_size"], image_token_id + 1)
    keeps_class_token = fields.get("mm_vision_select_feature") == "cls_patch"
    settings = {
        "vision_config": vision,
        "text_config": LlamaConfig(**text),
        "image_token_index": image_token_id,
        "image_seq_length": (vision.image_size // vision.patch_size) ** 2 + keeps_class_token,
        "vision_feature_layer": fields.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": "full" if keeps_class_token else "default",
    }
    if not uses_tiles(fields):
        return LlavaConfig(**settings)
    # LLaVA's are (width, height), transformers' (height, width)
    pinpoints = [[height, width] for width, height in fields["image_grid_pinpoints"]]
    return LlavaNextConfig(**settings, image_grid_pinpoints=pinpoints)


def build_processor(
    config: LlavaConfig | LlavaNextConfig, tokenizer: LlamaTokenizer
) -> LlavaProcessor | LlavaNextProcessor:
    """The processor of a model whose images are prepared as CLIP's; it has no chat template, LLaVA has its prompts."""
    side = config.vision_config.image_size
    images = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    settings = {
        "tokenizer": tokenizer,
        "patch_size": config.vision_config.patch_size,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "num_additional_image_tokens": 1,
    }
    if isinstance(config, LlavaConfig):
        return LlavaProcessor(CLIPImageProcessorPil(**images), **settings)
    images["image_grid_pinpoints"] = config.image_grid_pinpoints
    return LlavaNextProcessor(LlavaNextImageProcessorPil(**images), **settings)


def generation_config(folder: Path, tokenizer: LlamaTokenizer) -> GenerationConfig:
    """How an answer ends: by the folder's generation_config.json and tokenizer."""
    path = folder / "generation_config.json"
    ids = read_token_ids(path) if path.is_file() else {}
    said = ids.get("eos_token_id")
    ends = {*(said if isinstance(said, list) else [said]), tokenizer.eos_token_id} - {None}
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted(ends) if len(ends) > 1 else ends.pop(),
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=ids.get("suppress_tokens"),
    )
