"""LLaVA's original checkpoints as transformers' models: a key map over their files, checked name by name.

Read are a whole model (liuhaotian/llava-v1.5-7b, a trainer's checkpoint-500), with the vision tower inside or beside
it, and a pre-trained projector on its base language model (mm_projector.bin and config.json alone).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    ProcessorMixin,
)

from llava_hh.models import original_config
from llava_hh.models.original_fields import TOWER, check_supported, has_tower, is_original, language_files, read_fields
from llava_hh.models.weight_files import (
    PROJECTOR,
    ComputedTensor,
    Stored,
    StoredTensor,
    renamed,
    take_weights,
    tensors_of,
    weight_files,
)

# beginnings of names, the first that fits counts; source: LLaVA's modules and transformers'
KEY_MAP = {
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "model.multi_modal_projector.linear_2.",
    "model.image_newline": "model.image_newline",
    "model.": "model.language_model.",
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
    processor: ProcessorMixin
    tensors: dict[str, Stored]


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
    tokenizer = original_config.load_tokenizer(base)
    config = original_config.model_config(fields, vision, tokenizer)
    is_next = isinstance(config, LlavaNextConfig)
    model_class = LlavaNextForConditionalGeneration if is_next else LlavaForConditionalGeneration
    with torch.device("meta"):
        expected = model_class(config).state_dict()
    tensors = map_weights(folder, expected, stored, tower, fields["vocab_size"])
    named = getattr(torch, str(fields.get("torch_dtype") or fields.get("dtype")), None)
    config.dtype = named if isinstance(named, torch.dtype) else tensors["lm_head.weight"][:0].dtype
    generation = original_config.generation_config(base, tokenizer)
    return Original(model_class, config, generation, original_config.build_processor(config, tokenizer), tensors)


def find_parts(folder: Path, fields: dict) -> tuple[Path, list[StoredTensor], CLIPVisionConfig, list[StoredTensor]]:
    """The language model's folder, the checkpoint's tensors, its vision tower's configuration, and a separate tower's.

    Raises:
        FileNotFoundError: a folder or weights that are not there.
        ValueError: a base without a name, an adapter beside the weights, or a tower that is no CLIP.
    """
    base, files = language_files(folder, fields)
    vision, tower = original_config.vision_config(folder, fields, has_tower(files))
    beside = tensors_of(weight_files(tower)) if tower else []
    return base, tensors_of(files), vision, [tensor for tensor in beside if not tensor.name.startswith(TEXT_OF_CLIP)]


def map_weights(
    folder: Path,
    expected: dict[str, Tensor],
    stored: Iterable[StoredTensor],
    beside: Iterable[StoredTensor],
    n_words: int,
) -> dict[str, Stored]:
    """Each stored tensor under the name of transformers' model and in its shape.

    Tensors of a projector's file that the model lacks are named on standard error and left out. Rows of the vocabulary
    that LLaVA lacks are zeros.

    Args:
        beside: of a CLIP model, of which the vision part is taken.
        n_words: rows of LLaVA's vocabulary.
    Raises:
        ValueError: names that are missing or left over, or a tensor of another shape.
    """
    inner = "model.vision_tower.vision_model."  # transformers before 5
    tower = inner if any(name.startswith(inner) for name in expected) else "model.vision_tower."
    beginnings = {TOWER: tower, **KEY_MAP}
    tensors: dict[str, Stored] = {own.name: own for own in stored if not own.name.endswith(RECOMPUTED)}
    targets = {name: renamed(name, beginnings) for name in tensors}
    spare = {name for name, tensor in tensors.items() if tensor.file.path.name == PROJECTOR}
    for tensor in beside:
        if (target := tower + tensor.name.removeprefix("vision_model.")) in expected:
            tensors[tensor.name], targets[tensor.name] = tensor, target
    for name, target in targets.items():
        if target in VOCABULARY and target in expected:
            n_rows, width = expected[target].shape
            if tensors[name].shape == (n_words, width):
                add_rows = partial(pad, pad=(0, 0, 0, n_rows - n_words))
                tensors[name] = ComputedTensor(tensors[name], (n_rows, width), add_rows)
    return take_weights(folder, tensors, targets, expected, expected, spare)


def load_original(folder: Path, **options: Any) -> tuple[torch.nn.Module, ProcessorMixin]:
    """The model and its processor; `options` are those of from_pretrained (dtype, device_map).

    Raises:
        FileNotFoundError: a part that is not there.
        ValueError: another model, a damaged file, or weights that do not fit.
    """
    original = open_original(folder)
    options = {"dtype": "auto", "config": original.config, "state_dict": original.tensors, **options}
    model = original.model_class.from_pretrained(None, trust_remote_code=False, **options)
    model.generation_config = original.generation_config
    return model, original.processor
