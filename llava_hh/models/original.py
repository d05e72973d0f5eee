"""LLaVA's original checkpoints as transformers' models: a key map over their files, checked name by name.

Read are a whole model (liuhaotian/llava-v1.5-7b, a trainer's checkpoint-500), with the vision tower inside or beside
it, and a pre-trained projector on its base language model (mm_projector.bin and config.json alone).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
)

from llava_hh.models.original_config import (
    build_processor,
    generation_config,
    load_tokenizer,
    model_config,
    vision_config,
)
from llava_hh.models.original_fields import TOWER, check_supported, has_tower, is_original, language_files, read_fields
from llava_hh.models.weight_files import (
    PROJECTOR,
    StoredTensor,
    WithRows,
    name_unused,
    refuse_wrong_weights,
    tensors_of,
    weight_files,
)

# beginnings of names, the first that fits counts; source: LLaVA's modules and transformers'
KEY_MAP = {
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "model.multi_modal_projector.linear_2.",
    "model.image_newline": "model.image_newline",
    "model.": "model.language_model.",
    "lm_head.": "lm_head.",
}
TEXT_OF_CLIP = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
RECOMPUTED = (".rotary_emb.inv_freq", ".embeddings.position_ids")  # written by old versions, follow from the config
VOCABULARY = ("model.language_model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class Original:
    """An original checkpoint, its weights not yet read.

    Attributes:
        tensors: by the name in transformers' model, to be read when they are indexed.
    """

    model_class: type[LlavaForConditionalGeneration] | type[LlavaNextForConditionalGeneration]
    config: LlavaConfig | LlavaNextConfig
    generation_config: GenerationConfig
    processor: LlavaProcessor | LlavaNextProcessor
    tensors: dict[str, StoredTensor | WithRows]


def open_original(folder: Path) -> Original:
    """Find all parts of an original checkpoint and check that they make a model.

    Raises:
        FileNotFoundError: a part that is not there.
        ValueError: not one of LLaVA-1.5's or 1.6's, a damaged file, or weights that are missing, left over or of
            another shape; one line that names them.
    """
    fields = read_fields(folder)
    if not is_original(fields):
        raise ValueError(f"{folder}: not an original LLaVA checkpoint; its config.json has no mm_vision_tower")
    check_supported(folder, fields)
    base, stored, vision, tower = find_parts(folder, fields)
    tokenizer = load_tokenizer(base)
    config = model_config(fields, vision, tokenizer)
    is_next = isinstance(config, LlavaNextConfig)
    model_class = LlavaNextForConditionalGeneration if is_next else LlavaForConditionalGeneration
    with torch.device("meta"):
        expected = model_class(config).state_dict()
    tensors = place(folder, expected, stored, tower)
    tensors = {name: fit(tensors[name], tensor, name, fields["vocab_size"]) for name, tensor in expected.items()}
    named = getattr(torch, str(fields.get("torch_dtype") or fields.get("dtype")), None)
    config.dtype = named if isinstance(named, torch.dtype) else tensors["lm_head.weight"][:0].dtype
    return Original(
        model_class, config, generation_config(base, tokenizer), build_processor(config, tokenizer), tensors
    )


def find_parts(folder: Path, fields: dict) -> tuple[Path, list[StoredTensor], CLIPVisionConfig, list[StoredTensor]]:
    """The language model's folder, the checkpoint's tensors, its vision tower's configuration, and a separate tower's.

    Raises:
        FileNotFoundError, ValueError: as `language_files` and `vision_config`.
    """
    base, files = language_files(folder, fields)
    stored = tensors_of(files)
    vision, tower = vision_config(folder, fields, has_tower(files))
    beside = tensors_of(weight_files(tower)) if tower else []
    return base, stored, vision, [tensor for tensor in beside if not tensor.name.startswith(TEXT_OF_CLIP)]


def place(
    folder: Path, expected: dict[str, Tensor], stored: Iterable[StoredTensor], beside: Iterable[StoredTensor]
) -> dict[str, StoredTensor]:
    """Each stored tensor under the name of transformers' model.

    What a projector's own file holds beside the projector is named on standard error and left out.

    Args:
        beside: of a CLIP model, of which the vision part is taken.
    Raises:
        ValueError: names that are missing or left over.
    """
    inner = "model.vision_tower.vision_model."  # transformers before 5
    tower = inner if any(name.startswith(inner) for name in expected) else "model.vision_tower."
    placed, left_over, unused = {}, [], []
    for tensor in stored:
        name = target_name(tensor.name, tower)
        if name in expected:
            placed[name] = tensor
        elif not tensor.name.endswith(RECOMPUTED):
            (unused if tensor.file.path.name == PROJECTOR else left_over).append(tensor.name)
    for tensor in beside:
        name = tower + tensor.name.removeprefix("vision_model.")
        if name in expected:
            placed[name] = tensor
    missing = [name for name in expected if name not in placed]
    if missing or left_over:
        refuse_wrong_weights(folder, {"missing": missing, "left over": left_over + unused})
    name_unused(folder / PROJECTOR, unused)
    return placed


def target_name(name: str, tower: str) -> str:
    for begin, target in {TOWER: tower, **KEY_MAP}.items():
        if name.startswith(begin):
            return target + name.removeprefix(begin)
    return name


def fit(tensor: StoredTensor, expected: Tensor, name: str, n_words: int) -> StoredTensor | WithRows:
    """The tensor in the model's shape: rows of the vocabulary that LLaVA lacks are zeros.

    Raises:
        ValueError: another shape.
    """
    shape = tuple(expected.shape)
    if name in VOCABULARY and tensor.shape == (n_words, shape[1]):
        return WithRows(tensor, shape[0])
    if tensor.shape != shape:
        raise ValueError(f"{tensor.file.path}: {tensor.name} has shape {tensor.shape}; the model needs {shape}")
    return tensor


def load_original(folder: Path, **options: Any) -> tuple[torch.nn.Module, LlavaProcessor | LlavaNextProcessor]:
    """The model and its processor; `options` are those of from_pretrained (dtype, device_map).

    Raises:
        OSError, ValueError: as `open_original`.
    """
    original = open_original(folder)
    model = original.model_class.from_pretrained(
        None,
        config=original.config,
        state_dict=original.tensors,
        trust_remote_code=False,
        **{"dtype": "auto", **options},
    )
    model.generation_config = original.generation_config
    return model, original.processor
