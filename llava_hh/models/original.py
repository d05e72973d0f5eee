"""LLaVA's original checkpoints as transformers' models: a key map over their files, checked name by name.

It reads a whole model (liuhaotian/llava-v1.5-7b, a trainer's checkpoint-500), with the vision tower inside or beside
it, and a pre-trained projector on its base language model (mm_projector.bin and config.json alone).
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import pad
from transformers import CLIPVisionConfig, PreTrainedModel, ProcessorMixin

from llava_hh.models import original_config, weight_files
from llava_hh.models.original_fields import TOWER, check_supported, has_tower, is_original, language_files, read_fields

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


def open_original(folder: Path) -> tuple[PreTrainedModel, ProcessorMixin, dict[str, weight_files.Stored]]:
    """Find all parts of an original checkpoint and check that they make a model.

    Returns: the model on the meta device, without weights; its processor; and its weights by name, which are read when
        they are indexed.
    Raises:
        FileNotFoundError: a part that is not there.
        ValueError: not one of LLaVA-1.5's or 1.6's, a damaged file, or weights that are missing, left over or of
            another shape; one line that names them.
    """
    fields = read_fields(folder)
    if not is_original(fields):
        raise ValueError(f"{folder}: not an original LLaVA checkpoint; its config.json has no mm_vision_tower")
    check_supported(folder, fields)
    base, held, beside, vision = find_parts(folder, fields)
    tokenizer = original_config.load_tokenizer(base)
    config = original_config.model_config(fields, vision, tokenizer)
    is_next = isinstance(config, transformers.LlavaNextConfig)
    kind = transformers.LlavaNextForConditionalGeneration if is_next else transformers.LlavaForConditionalGeneration
    with torch.device("meta"):
        model = kind(config)
    weights = map_weights(folder, model.state_dict(), held, beside, fields["vocab_size"])
    named = getattr(torch, str(fields.get("torch_dtype") or fields.get("dtype")), None)
    config.dtype = named if isinstance(named, torch.dtype) else weights["lm_head.weight"][:0].dtype
    model.generation_config = original_config.generation_config(base, tokenizer)
    return model, original_config.build_processor(config, tokenizer), weights


Tensors = list[weight_files.StoredTensor]


def find_parts(folder: Path, fields: dict) -> tuple[Path, Tensors, Tensors, CLIPVisionConfig]:
    """The language model's folder, the checkpoint's tensors, those of a CLIP beside it, and the tower's configuration.

    Raises:
        FileNotFoundError: a folder or weights that are not there.
        ValueError: a base without a name, an adapter beside the weights, or a tower that is no CLIP.
    """
    base, held = language_files(folder, fields)
    vision, tower = original_config.vision_config(folder, fields, has_tower(held))
    beside = weight_files.tensors_of(weight_files.weight_files(tower)) if tower else []
    shown = [tensor for tensor in beside if not tensor.name.startswith(TEXT_OF_CLIP)]
    return base, weight_files.tensors_of(held), shown, vision


def map_weights(
    folder: Path, expected: dict[str, Tensor], held: Tensors, beside: Tensors, n_words: int
) -> dict[str, weight_files.Stored]:
    """Each stored tensor under the name of transformers' model and in its shape.

    What a projector's own file holds beside the projector is named on standard error and left out. Rows of the
    vocabulary that LLaVA lacks are zeros.

    Args:
        held: the checkpoint's tensors.
        beside: those of a CLIP model, of which the vision part is taken.
        n_words: rows of LLaVA's vocabulary.
    Raises:
        ValueError: names that are missing or left over, or a tensor of another shape.
    """
    inner = "model.vision_tower.vision_model."  # transformers before 5
    tower = inner if any(name.startswith(inner) for name in expected) else "model.vision_tower."
    weights = {tensor.name: tensor for tensor in held if not tensor.name.endswith(RECOMPUTED)}
    targets = {name: weight_files.renamed(name, {TOWER: tower, **KEY_MAP}) for name in weights}
    for tensor in beside:
        name = tower + tensor.name.removeprefix("vision_model.")  # which transformers 5 leaves out
        if name in expected:
            weights[name], targets[name] = tensor, name
    for name, target in targets.items():
        shape = tuple(expected[target].shape) if target in VOCABULARY else ()
        if shape and weights[name].shape == (n_words, *shape[1:]):
            add_rows = partial(pad, pad=(0, 0, 0, shape[0] - n_words))
            weights[name] = weight_files.ComputedTensor(weights[name], shape, add_rows)
    spare = {name for name, weight in weights.items() if weight.file.path.name == weight_files.PROJECTOR}
    return weight_files.take_weights(folder, weights, targets, expected, expected, spare)


def load_original(folder: Path, **options: Any) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model and its processor; `options` are those of from_pretrained (dtype, device_map).

    Raises:
        FileNotFoundError: a part that is not there.
        ValueError: another model, a damaged file, or weights that do not fit.
    """
    empty, processor, weights = open_original(folder)
    options = {"dtype": "auto", "config": empty.config, "state_dict": weights, **options}
    model = type(empty).from_pretrained(None, trust_remote_code=False, **options)
    model.generation_config = empty.generation_config
    return model, processor
