"""MiniGPT-4 from its published parts: Llama-2's folder, EVA ViT-g, the projector, and what fine-tuning changed.

A folder of ours holds no weights but a config.json that names them, paths relative to that folder or absolute:

    {"model_type": "minigpt4", "prompt": "harness",
     "parts": {"language_model": "../Llama-2-7b-chat-hf", "vision_tower": "../eva_vit_g.pth",
               "projector": "../pretrained_minigpt4_llama2_7b.pth", "fine_tuned": "../minigpt4_finetuned.pth"}}

Names inside the files are MiniGPT-4's: visual_encoder (without that prefix in eva_vit_g.pth), ln_vision, llama_proj,
llama_model.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, BlipImageProcessorPil, LlamaForCausalLM, PreTrainedTokenizerBase

from llava_hh.files.files import read_json
from llava_hh.files.memory import is_out_of_memory
from llava_hh.models import weight_files
from llava_hh.models.chat import load_whole
from llava_hh.models.minigpt4_model import (
    IMAGE_TOKEN,
    MiniGpt4Config,
    MiniGpt4ForConditionalGeneration,
    MiniGpt4Processor,
)
from llava_hh.models.token_ids import generation_config, with_token_ids
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
# beginnings of MiniGPT-4's names, the first that fits counts
BEGINNINGS = {"visual_encoder.": VISION, "ln_vision.": LN_VISION, "llama_proj.": PROJECTOR}


def assemble(
    folder: Path, config: MiniGpt4Config, dtype: torch.dtype | str, **options: Any
) -> tuple[MiniGpt4ForConditionalGeneration, MiniGpt4Processor]:
    """The model and its processor from the parts that the config.json of `folder` names.

    Args:
        dtype: as in transformers; "auto" is the type of Llama's weights, to which all others are cast.
        options: what else from_pretrained takes, for the whole (device_map, quantization_config).
    Raises:
        FileNotFoundError: a part that is not there.
        ValueError: a part that is damaged, lacks a weight, or has one that the model lacks; one line.
    Source: MiniGPT-4's loading order: encoder, Llama, projector; then, as in the paper's harness, what was fine-tuned.
    Differs: they load files non-strictly, so that a wrong file changes nothing and says nothing.
    """
    parts = find_parts(folder, config.parts)
    language = load_llama(parts["language_model"], dtype)
    tokenizer = load_tokenizer(parts["language_model"])
    config.parts, config.text_config = None, language.config
    config.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    weights = {name.replace("model.", LANGUAGE, 1): tensor for name, tensor in language.state_dict().items()}
    weights |= read_weights(parts, config)
    options |= {"config": config, "state_dict": weights, "dtype": language.dtype}
    model = MiniGpt4ForConditionalGeneration.from_pretrained(None, trust_remote_code=False, **options)
    said = language.generation_config
    # words that the tokenizer lacks, should the matrix have been rounded up
    unspoken = [*(said.suppress_tokens or ()), *range(config.image_token_id, language.config.vocab_size)]
    model.generation_config = with_token_ids(tokenizer, said.eos_token_id, unspoken or None)
    side = config.vision_config.image_size
    return model, MiniGpt4Processor(BlipImageProcessorPil(size={"height": side, "width": side}), tokenizer)


def read_weights(parts: dict[str, Path], config: MiniGpt4Config) -> dict[str, weight_files.Stored | Tensor]:
    """What the files have, by our names: the encoder, the projector, what was fine-tuned.

    A file that has all that is needed may have more, which is named on standard error and left out; but not a
    fine-tuned file, whose names must all fit.

    Raises:
        ValueError: a file that is damaged, lacks a weight, or has one that the model lacks or of another shape.
    """
    with torch.device("meta"):
        expected = MiniGpt4ForConditionalGeneration(config).state_dict()

    def take(path: Path, stored: dict[str, weight_files.Stored], *begins: str) -> dict[str, weight_files.Stored]:
        needed = [name for name in expected if name.startswith(begins) and not name.startswith(LN_VISION)]
        targets = {name: our_name(name) for name in stored if not name.endswith("rotary_emb.inv_freq")}  # recomputed
        return weight_files.take_weights(path, stored, targets, expected, needed, spare=stored if needed else ())

    # without a Q-Former nobody loads ln_vision: it is as torch makes it, unless a file has it
    width = config.vision_config.hidden_size
    weights: dict = {f"{LN_VISION}weight": torch.ones(width), f"{LN_VISION}bias": torch.zeros(width)}
    path = parts["vision_tower"]
    weights |= take(path, read_eva(path, config.vision_config.num_hidden_layers), VISION)
    weights |= take(parts["projector"], read_file(parts["projector"]), PROJECTOR)
    if path := parts.get("fine_tuned"):
        tuned = take(path, read_file(path))
        if not any(name.startswith(LANGUAGE) for name in tuned):
            raise ValueError(f"{path}: no weight of the language model in it; expected fine-tuned ones")
        weights |= tuned
    return weights


def stored_tensors(folder: Path) -> list[weight_files.StoredTensor]:
    """What the weights are read from: the published parts, or the files of a folder that holds the weights itself.

    Raises:
        FileNotFoundError: a part that is not there.
        ValueError: parts of another form, or a file that is damaged.
    """
    if (named := read_json(folder / "config.json").get("parts")) is None:
        return weight_files.tensors_of(weight_files.weight_files(folder))
    parts = find_parts(folder, named)
    language = weight_files.weight_files(parts.pop("language_model"))
    return weight_files.tensors_of([*language, *map(weight_files.WeightFile, parts.values())])


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
    paths = {name: (folder / part).resolve() for name, part in parts.items()}
    for name, path in paths.items():
        if not path.exists():
            raise FileNotFoundError(f"{where}: {name}: nothing at {path}")
    return paths


def load_llama(folder: Path, dtype: torch.dtype | str) -> LlamaForCausalLM:
    """The language model, on the CPU.

    Raises:
        ValueError: no such folder, another kind of model, weights that are missing or damaged, an adapter beside them.
    """
    for name in ("config.json", "tokenizer.json"):  # without the latter transformers makes an empty tokenizer
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: no {name} there; expected Llama-2 in the transformers layout")
    weight_files.check_files(folder)
    kind = from_folder(AutoConfig, folder).model_type
    if kind != "llama":
        raise ValueError(f"{folder}: a model of type {kind!r}; MiniGPT-4's language model is a 'llama'")
    options = {"dtype": dtype, "device_map": "cpu", "attn_implementation": "sdpa"}
    options["generation_config"] = generation_config(folder)
    try:
        return load_whole(LlamaForCausalLM, folder, **options)
    except weight_files.UNREADABLE as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{folder}: its weights cannot be read ({weight_files.first_line(error)})") from None


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Llama's tokenizer with a placeholder for image positions, padding with <unk> as MiniGPT-4 does."""
    tokenizer = from_folder(AutoTokenizer, folder)
    tokenizer.pad_token = tokenizer.unk_token
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    return tokenizer


def read_file(path: Path) -> dict[str, weight_files.Stored]:
    """The tensors of a .pth file by name.

    Raises:
        ValueError: a damaged file, a Git LFS pointer, or a file of another kind.
    """
    return {tensor.name: tensor for tensor in weight_files.tensors_of([weight_files.WeightFile(path)])}


def read_eva(path: Path, depth: int) -> dict[str, weight_files.Stored]:
    """The tensors of the first `depth` blocks and of what stands before them, named as in MiniGPT-4.

    The biases of queries and values become one with that of the keys, which is 0.
    """
    tensors: dict[str, weight_files.Stored] = {}
    for name, tensor in read_file(path).items():
        block = re.match(r"blocks\.(\d+)\.", name)
        if not name.startswith(EVA_UNUSED) and (block is None or int(block[1]) < depth):
            tensors[f"visual_encoder.{name}"] = tensor
    for name in [name for name in tensors if name.endswith(".q_bias")]:
        if (value := tensors.pop(name.replace(".q_bias", ".v_bias"), None)) is not None:
            query = tensors.pop(name)
            shape = (2 * query.shape[0] + value.shape[0],)
            joined = weight_files.ComputedTensor(query, shape, partial(with_key_and_value, value=value))
            tensors[name.replace(".q_bias", ".qkv.bias")] = joined
    return tensors


def with_key_and_value(query: Tensor, value: weight_files.Stored) -> Tensor:
    """One bias of queries, keys and values."""
    return torch.cat([query, torch.zeros_like(query), value[...]])


def our_name(name: str) -> str:
    """The name in our model of a tensor of MiniGPT-4, or another name where the model has no such tensor."""
    if not name.startswith(tuple(BEGINNINGS)):
        name = name.removeprefix("llama_model.").removeprefix("base_model.model.")  # the latter under PEFT
        return weight_files.renamed(name, {"model.": LANGUAGE})
    if name.startswith("visual_encoder."):
        for theirs, ours in EVA_NAMES.items():
            name = name.replace(theirs, ours)
    return weight_files.renamed(name, BEGINNINGS)
