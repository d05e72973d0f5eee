"""MiniGPT-4 from its published parts: Llama-2's folder, EVA ViT-g, the projector, and what fine-tuning changed.

A folder of ours holds no weights but a config.json that names them, paths relative to that folder or absolute:

    {"model_type": "minigpt4", "prompt": "harness",
     "parts": {"language_model": "../Llama-2-7b-chat-hf", "vision_tower": "../eva_vit_g.pth",
               "projector": "../pretrained_minigpt4_llama2_7b.pth", "fine_tuned": "../minigpt4_finetuned.pth"}}

Names inside the files are MiniGPT-4's: visual_encoder (without that prefix in eva_vit_g.pth), ln_vision, llama_proj,
llama_model.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BlipImageProcessorPil,
    GenerationConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from llava_hh.files.files import read_json, refuse_pointer
from llava_hh.models.minigpt4_model import (
    IMAGE_TOKEN,
    MiniGpt4Config,
    MiniGpt4ForConditionalGeneration,
    MiniGpt4Processor,
)
from llava_hh.models.token_ids import generation_config
from llava_hh.models.weight_files import (
    UNREADABLE,
    StoredTensor,
    WeightFile,
    check_files,
    first_line,
    listed,
    name_unused,
    tensors_of,
    weight_files,
)
from llava_hh.models.without_code import from_folder

REQUIRED, OPTIONAL = {"language_model", "vision_tower", "projector"}, {"fine_tuned"}
VISION, PROJECTOR, LANGUAGE = "model.vision_tower.", "model.llama_proj.", "model.language_model."
LN_VISION = f"{VISION}post_layernorm."
# the encoder's parts in LAVIS and in transformers, replaced one after the other
EVA_NAMES = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.": "embeddings.patch_embedding.",
    "blocks.": "encoder.layers.",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".attn.proj.": ".self_attn.projection.",
    ".attn.": ".self_attn.",
}
EVA_UNUSED = ("norm.", "fc_norm.", "head.")  # what follows the last block of the whole EVA


def assemble(
    folder: Path, config: MiniGpt4Config, dtype: torch.dtype | str, **options: Any
) -> tuple[MiniGpt4ForConditionalGeneration, MiniGpt4Processor]:
    """The model and its processor from the parts that the config.json of `folder` names.

    Args:
        dtype: as in transformers; "auto" is the type of Llama's weights, to which all others are cast.
        options: what else from_pretrained takes, for the whole (device_map, quantization_config).
    Raises:
        FileNotFoundError: a part that is not there.
        ValueError: a part that is damaged, that lacks a weight or has one that has no place in the model; one line.
    Source: MiniGPT-4's loading order: encoder, Llama, projector; then, as in the paper's harness, what was fine-tuned.
    Differs: they load files non-strictly, so that a wrong file changes nothing and says nothing.
    """
    parts = find_parts(folder, config.parts)
    language = load_llama(parts["language_model"], dtype)
    tokenizer = load_tokenizer(parts["language_model"])
    config.parts, config.text_config = None, language.config
    config.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    weights = {name.replace("model.", LANGUAGE, 1): own for name, own in language.state_dict().items()}
    weights |= read_weights(parts, config)
    model = MiniGpt4ForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=weights, trust_remote_code=False, dtype=language.dtype, **options
    )
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=language.generation_config.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # words that the tokenizer lacks, should the matrix have been rounded up
        suppress_tokens=[
            *(language.generation_config.suppress_tokens or ()),
            *range(config.image_token_id, language.config.vocab_size),
        ]
        or None,
    )
    side = config.vision_config.image_size
    return model, MiniGpt4Processor(BlipImageProcessorPil(size={"height": side, "width": side}), tokenizer)


def read_weights(parts: dict[str, Path], config: MiniGpt4Config) -> dict[str, Tensor]:
    """What the files have, by our names: the encoder, the projector, what was fine-tuned.

    Raises:
        ValueError: as `assemble`.
    """
    with torch.device("meta"):
        shapes = {name: own.shape for name, own in MiniGpt4ForConditionalGeneration(config).state_dict().items()}
    encoder = {name for name in shapes if name.startswith(VISION) and not name.startswith(LN_VISION)}
    projector = {name for name in shapes if name.startswith(PROJECTOR)}
    # without a Q-Former nobody loads ln_vision: it is as torch makes it, unless a file has it
    width = config.vision_config.hidden_size
    weights = {f"{LN_VISION}weight": torch.ones(width), f"{LN_VISION}bias": torch.zeros(width)}
    path = parts["vision_tower"]
    weights |= place(read_eva(path, config.vision_config.num_hidden_layers), shapes, encoder, path)
    path = parts["projector"]
    weights |= place(read_tensors(path), shapes, projector, path)
    if path := parts.get("fine_tuned"):
        tuned = place(read_tensors(path), shapes, (), path)
        if not any(name.startswith(LANGUAGE) for name in tuned):
            raise ValueError(f"{path}: no weight of the language model in it; expected fine-tuned ones")
        weights |= tuned
    return weights


def stored_tensors(folder: Path) -> list[StoredTensor]:
    """What the weights are read from: the published parts, or the files of a folder that holds the weights itself.

    Raises:
        OSError, ValueError: as `find_parts`; a file that is damaged.
    """
    if (named := read_json(folder / "config.json").get("parts")) is None:
        return tensors_of(weight_files(folder))
    parts = find_parts(folder, named)
    language = weight_files(parts.pop("language_model"))
    return tensors_of([*language, *map(WeightFile, parts.values())])


def find_parts(folder: Path, parts: Any) -> dict[str, Path]:
    """The paths of the parts that a config.json names.

    Raises:
        ValueError: `parts` are not such a table, or name other things.
        FileNotFoundError: a part that is not there.
    """
    where = f"{folder / 'config.json'}: parts"
    names = set(parts) if isinstance(parts, dict) else set()
    if not REQUIRED <= names <= REQUIRED | OPTIONAL or not all(isinstance(part, str) for part in parts.values()):
        raise ValueError(
            f"{where} {parts!r}; expected a path for each of {', '.join(sorted(REQUIRED))}, "
            f"and for {', '.join(OPTIONAL)} where there is one"
        )
    found = {name: (folder / part).resolve() for name, part in parts.items()}
    for name, path in found.items():
        if not path.exists():
            raise FileNotFoundError(f"{where}: {name}: nothing at {path}")
    return found


def load_llama(folder: Path, dtype: torch.dtype | str) -> LlamaForCausalLM:
    """The language model, on the CPU.

    Raises:
        ValueError: no such folder, another kind of model, weights that are missing or damaged, an adapter beside them.
    """
    for name in ("config.json", "tokenizer.json"):  # without the latter transformers makes an empty tokenizer
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: no {name} there; expected Llama-2 in the transformers layout")
    check_files(folder)
    kind = from_folder(AutoConfig, folder).model_type
    if kind != "llama":
        raise ValueError(f"{folder}: a model of type {kind!r}; MiniGPT-4's language model is a 'llama'")
    try:
        options = {"dtype": dtype, "device_map": "cpu", "attn_implementation": "sdpa", "output_loading_info": True}
        options["generation_config"] = generation_config(folder)
        model, report = from_folder(LlamaForCausalLM, folder, **options)
    except UNREADABLE as error:
        raise ValueError(f"{folder}: its weights cannot be read ({first_line(error)})") from None
    if report["missing_keys"]:
        raise ValueError(f"{folder}: weights missing: {listed(report['missing_keys'])}")
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Llama's tokenizer with a placeholder of its own for image positions, padding with <unk> as MiniGPT-4 does."""
    tokenizer = from_folder(AutoTokenizer, folder)
    tokenizer.pad_token = tokenizer.unk_token
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    return tokenizer


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth file, those under "model" where it has that.

    Raises:
        ValueError: a truncated file, a Git LFS pointer, or a file of another kind.
    """
    refuse_pointer(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(f"{path}: truncated, or no file of tensors ({first_line(error)})") from None
    if isinstance(content, dict):
        content = content.get("model", content)
    if not isinstance(content, dict) or not all(isinstance(own, Tensor) for own in content.values()):
        raise ValueError(f"{path}: expected tensors by name, or these under 'model'")
    return content


def read_eva(path: Path, depth: int) -> dict[str, Tensor]:
    """The tensors of the first `depth` blocks and of what stands before them, named as in MiniGPT-4.

    The biases of queries and values become one with that of the keys, which is 0.
    """
    tensors = {}
    for name, tensor in read_tensors(path).items():
        block = re.match(r"blocks\.(\d+)\.", name)
        if not name.startswith(EVA_UNUSED) and (block is None or int(block[1]) < depth):
            tensors[f"visual_encoder.{name}"] = tensor
    for query in [name for name in tensors if name.endswith(".q_bias")]:
        value = query.replace(".q_bias", ".v_bias")
        if value in tensors:
            bias, last = tensors.pop(query), tensors.pop(value)
            tensors[query.replace(".q_bias", ".qkv.bias")] = torch.cat([bias, torch.zeros_like(bias), last])
    return tensors


def place(
    tensors: dict[str, Tensor], shapes: dict[str, torch.Size], needed: Iterable[str], path: Path
) -> dict[str, Tensor]:
    """The tensors of a file by their names in our model.

    A file that has all that is needed may have more: it is named on standard error and left out.

    Args:
        tensors: by MiniGPT-4's names.
        shapes: of every weight of the model.
        needed: our names that have to be among them; none of a fine-tuned file, whose names must all fit then.
    Raises:
        ValueError: shapes that the model does not have, needed names that are not there, or fine-tuned ones that do not
            fit.
    """
    # older versions of transformers saved the frequencies of the positions, which are computed
    names = {name: our_name(name) for name in tensors if not name.endswith("rotary_emb.inv_freq")}
    unknown = [name for name, own in names.items() if own not in shapes]
    missing = set(needed) - set(names.values())
    if missing or (unknown and not needed):
        wrong = {"weights missing": missing, "names that have no place in the model": unknown}
        raise ValueError(f"{path}: {'; '.join(f'{what}: {listed(own)}' for what, own in wrong.items() if own)}")
    name_unused(path, unknown)
    names = {name: own for name, own in names.items() if own in shapes}
    for name, own in names.items():
        if tensors[name].shape != shapes[own]:
            found, expected = tuple(tensors[name].shape), tuple(shapes[own])
            raise ValueError(f"{path}: {name} has shape {found}; expected {expected}")
    return {own: tensors[name] for name, own in names.items()}


def our_name(name: str) -> str:
    """The name in our model of one of MiniGPT-4's, or some name that it does not have."""
    if name.startswith("visual_encoder."):
        name = name.removeprefix("visual_encoder.")
        for theirs, own in EVA_NAMES.items():
            name = name.replace(theirs, own)
        return VISION + name
    if name.startswith("ln_vision."):
        return name.replace("ln_vision.", LN_VISION, 1)
    if name.startswith("llama_proj."):
        return name.replace("llama_proj.", PROJECTOR, 1)
    name = name.removeprefix("llama_model.").removeprefix("base_model.model.")  # the latter under PEFT
    return name.replace("model.", LANGUAGE, 1) if name.startswith("model.") else name
