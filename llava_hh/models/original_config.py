"""Configuration, tokenizer and processor of an original LLaVA checkpoint as transformers' objects.

Original: liuhaotian/llava-v1.5-7b and -13b, llava-v1.6-34b, and what LLaVA's trainer writes.
"""

from dataclasses import fields as fields_of
from pathlib import Path

import transformers
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2
from transformers import CLIPVisionConfig, LlamaConfig, LlamaTokenizer, LlavaConfig, LlavaNextConfig

from llava_hh.files.files import read_json
from llava_hh.files.kinds import refuse_pointer
from llava_hh.models.original_fields import KNOWN_TOWERS, tower_folder, uses_tiles
from llava_hh.models.token_ids import read_token_ids, with_token_ids
from llava_hh.models.without_code import from_folder

IMAGE_TOKEN = "<image>"
# of the language model: not what every configuration has (architectures, dtype), nor use_cache, off in training
LLAMA_FIELDS = {field.name for field in fields_of(LlamaConfig)} | {"rope_theta", "rope_scaling"}  # now rope_parameters
LLAMA_FIELDS -= {field.name for field in fields_of(transformers.PreTrainedConfig)} | {"use_cache"}


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
    """The tokenizer by its tokenizer.model, as LLaVA uses it, and an image token behind its vocabulary.

    transformers 5 would begin every text with a blank, which Yi (of LLaVA-1.6-34B) is trained without, and no text
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
    options = {"add_bos_token": read_json(settings).get("add_bos_token", True) if settings.is_file() else True}
    options["add_prefix_space"] = pieces.normalizer_spec.add_dummy_prefix
    tokenizer = from_folder(LlamaTokenizer, folder, **options)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token
    tokenizer.chat_template = None  # of the language model; LLaVA has its own prompts
    tokenizer.add_tokens(transformers.AddedToken(IMAGE_TOKEN, special=True, normalized=False))
    return tokenizer


def model_config(fields: dict, vision: CLIPVisionConfig, tokenizer: LlamaTokenizer) -> LlavaConfig | LlavaNextConfig:
    """The configuration of the same model in transformers; its vocabulary has a row for the image token."""
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    text = {name: fields[name] for name in LLAMA_FIELDS & fields.keys()}
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
) -> transformers.LlavaProcessor | transformers.LlavaNextProcessor:
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
        return transformers.LlavaProcessor(transformers.CLIPImageProcessorPil(**images), **settings)
    tiles = transformers.LlavaNextImageProcessorPil(**images, image_grid_pinpoints=config.image_grid_pinpoints)
    return transformers.LlavaNextProcessor(tiles, **settings)


def generation_config(folder: Path, tokenizer: LlamaTokenizer) -> transformers.GenerationConfig:
    """How an answer ends: by the folder's generation_config.json and tokenizer."""
    path = folder / "generation_config.json"
    ids = read_token_ids(path) if path.is_file() else {}
    said = ids.get("eos_token_id")
    ends = {*(said if isinstance(said, list) else [said]), tokenizer.eos_token_id} - {None}
    return with_token_ids(tokenizer, sorted(ends) if len(ends) > 1 else ends.pop(), ids.get("suppress_tokens"))
