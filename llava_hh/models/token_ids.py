"""What a checkpoint says about decoding: token ids alone. How to decode is for the method to say, not for a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_hh.files.files import read_json

if TYPE_CHECKING:
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

    found = read_token_ids(folder / "config.json")
    if (path := folder / "generation_config.json").is_file():
        found |= {name: value for name, value in read_token_ids(path).items() if value is not None}
    return GenerationConfig(**found)


def see_end_token(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """See that answers can end: by the files' token ids, or else by the tokenizer's end token.

    Raises:
        ValueError: there is none, so that every answer would run to the longest length.
    """
    if config.eos_token_id is None:
        config.eos_token_id = tokenizer.eos_token_id
    if config.eos_token_id is None:
        raise ValueError("no eos_token_id in generation_config.json, config.json or the tokenizer: no answer would end")


def end_ids(model: PreTrainedModel) -> list[int]:
    """The ids that end an answer, each once, by the model's generation config; none if it names none."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        return []
    return list(dict.fromkeys(ends)) if isinstance(ends, list) else [ends]


def read_token_ids(path: Path) -> dict[str, Any]:
    """The fields of FORMS in a JSON file, None where it has none; those of a text_config where its top has none.

    Raises:
        ValueError: as `generation_config`.
    """
    fields = read_json(path)
    text = fields.get("text_config")
    inner = text if isinstance(text, dict) else {}
    found = {}
    for name, (single, several, expected) in FORMS.items():
        value = inner.get(name) if fields.get(name) is None else fields[name]
        ids = value if several and isinstance(value, list) else [value] if single else [None]
        is_empty = name == "eos_token_id" and value == []
        if is_empty or value is not None and not all(type(number) is int and 0 <= number < 2**31 for number in ids):
            raise ValueError(f"{path}: {name} is {value!r}; expected {expected}")
        found[name] = value
    return found
