"""The image token as text: its characters, tokenised as LLaVA's own tokenizer does, which has no such token."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING

from PIL.Image import Image
from tokenizers import Tokenizer
from torch import Tensor

if TYPE_CHECKING:
    from transformers import ProcessorMixin

NO_TEXT = "\ufdd0"  # a code point that no text has


def without_image_token(processor: ProcessorMixin) -> ProcessorMixin:
    """A copy of a processor whose tokenizer splits the image token into pieces, like any other text."""
    token, other = processor.image_token, NO_TEXT + processor.image_token
    content = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    for each in content["added_tokens"]:
        if each["content"] == token:
            each["content"] = other
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, dict) and token in vocabulary:
        vocabulary[other] = vocabulary.pop(token)
    plain = copy(processor)
    plain.tokenizer = copy(processor.tokenizer)
    plain.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    plain.image_token = other
    for name, value in vars(processor).items():
        if isinstance(value, re.Pattern):  # what a processor looks for its token by
            setattr(plain, name, re.compile(value.pattern.replace(re.escape(token), re.escape(other))))
    return plain


def encode_apart(
    encode: Callable[..., tuple[list[list[int]], dict[str, Tensor]]],
    processors: Sequence[ProcessorMixin],
    images: Sequence[Image | None],
    questions: Sequence[str],
) -> tuple[list[list[int]], dict[str, Tensor]]:
    """What a family's `encode` makes of rows that have processors of their own; in order."""
    rows: dict[int, list[int]] = {}
    tensors: dict[str, Tensor] = {}
    for processor in {id(each): each for each in processors}.values():
        own = [place for place, each in enumerate(processors) if each is processor]
        found, made = encode(processor, [images[place] for place in own], [questions[place] for place in own])
        rows |= dict(zip(own, found, strict=True))
        tensors |= made
    return [rows[place] for place in range(len(processors))], tensors
