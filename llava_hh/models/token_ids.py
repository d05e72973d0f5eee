"""Token ids of a checkpoint: what it says about decoding, and ids that its model has no embedding for.

How to decode is for the method to say, not for a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_hh.files.files import read_json

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

# field: whether it may be one id, whether it may be a list, and what is expected
FORMS = {
    "bos_token_id": (True, False, "a token id"),
    "eos_token_id": (True, True, "token ids"),
    "pad_token_id": (True, False, "a token id"),
    "suppress_tokens": (False, True, "a list of token ids"),
}


def generation_config(folder: Path) -> GenerationConfig:
    """The token ids of a folder's generation_config.json; what it does not say, of its config.json.

    Raises:
        ValueError: ids that cannot be, in one line that names the file and the field.
    Differs: `generate` follows everything that these files ask for, such as beams, penalties (Qwen2.5-VL's repetition
        penalty of 1.05), sampling or a cache that is off. Greedy decoding would be another method on each model, and
        attribution would measure other probabilities than those that decided.
    """
    from transformers import GenerationConfig

    ids = read_token_ids(folder / "config.json")
    if (path := folder / "generation_config.json").is_file():
        ids |= {name: value for name, value in read_token_ids(path).items() if value is not None}
    return GenerationConfig(**ids)


def with_token_ids(
    tokenizer: PreTrainedTokenizerBase, ends: int | list[int] | None, suppressed: list[int] | None
) -> GenerationConfig:
    """A generation config of the tokenizer's ids, with the ids that end an answer and those that are never said."""
    from transformers import GenerationConfig

    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return GenerationConfig(**ids, eos_token_id=ends, suppress_tokens=suppressed)


def complete_end_token(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let answers end with the tokenizer's end token where the files name none.

    Raises:
        ValueError: the tokenizer has none either, so that every answer would run to the longest length.
    """
    if config.eos_token_id is None:
        config.eos_token_id = tokenizer.eos_token_id
    if config.eos_token_id is None:
        raise ValueError("no eos_token_id in generation_config.json, config.json or the tokenizer: no answer would end")


def end_ids(model: PreTrainedModel) -> list[int]:
    """The ids that end an answer, without repeats, by the model's generation config; an empty list if it has none."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else list(dict.fromkeys(ends if isinstance(ends, list) else [ends]))


def refuse_unknown_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, input_ids: Tensor, image_ids: Iterable[int]
) -> None:
    """Check that every id has an embedding; a [PAD] that was added without resizing the embeddings has none.

    Args:
        input_ids: of any shape, on the CPU.
        image_ids: of image tokens, which the image's own features replace.
    Raises:
        ValueError: names the tokens.
    """
    n_rows = model.get_input_embeddings().num_embeddings
    if beyond := set(input_ids[input_ids >= n_rows].tolist()) - set(image_ids):
        named = ", ".join(f"{tokenizer.convert_ids_to_tokens(token)!r} ({token})" for token in sorted(beyond))
        raise ValueError(f"the tokenizer's {named} is beyond the model's {n_rows} embeddings; resize them for it")


def read_token_ids(path: Path) -> dict[str, Any]:
    """The fields of FORMS in a JSON file, None where it has none; those of a text_config where its top has none.

    Raises:
        ValueError: ids that cannot be; names the file and the field.
    """
    fields = read_json(path)
    text = fields.get("text_config")
    ids = {}
    for name, (may_be_one, may_be_list, expected) in FORMS.items():
        value = fields.get(name)
        if value is None and isinstance(text, dict):
            value = text.get(name)
        listed = value if may_be_list and isinstance(value, list) else [value if may_be_one else None]
        is_empty = name == "eos_token_id" and value == []
        if is_empty or value is not None and not all(type(number) is int and 0 <= number < 2**31 for number in listed):
            raise ValueError(f"{path}: {name} is {value!r}; expected {expected}")
        ids[name] = value
    return ids
