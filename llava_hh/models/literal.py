"""The image token as text: its characters, tokenised as by LLaVA's tokenizer, which has no such token."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING

from tokenizers import Tokenizer
from torch import Tensor

from llava_hh.models.chat import Encoded, Images

if TYPE_CHECKING:
    from transformers import ProcessorMixin

NO_TEXT = "\ufdd0"  # a code point that no text has


def without_image_token(processor: ProcessorMixin) -> ProcessorMixin:
    """A copy of a processor whose tokenizer splits the image token into pieces, like any other text."""
    token, other = processor.image_token, NO_TEXT + processor.image_token
    content = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    for added in content["added_tokens"]:
        if added["content"] == token:
            added["content"] = other
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, dict) and token in vocabulary:
        vocabulary[other] = vocabulary.pop(token)
    plain = copy(processor)
    plain.tokenizer = copy(processor.tokenizer)
    plain.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    plain.image_token = other
    for name, value in vars(processor).items():
        if isinstance(value, re.Pattern):  # by which a processor looks for its token
            setattr(plain, name, re.compile(value.pattern.replace(re.escape(token), re.escape(other))))
    return plain


def encode_apart(
    encode: Callable[..., Encoded], processors: Sequence[ProcessorMixin], images: Images, questions: Sequence[str]
) -> Encoded:
    """The rows and tensors of a family's `encode` for rows of different processors, in order."""
    rows: dict[int, list[int]] = {}
    tensors: dict[str, Tensor] = {}
    for processor in {id(processor): processor for processor in processors}.values():
        indices = [index for index, other in enumerate(processors) if other is processor]
        encoded, made = encode(processor, [images[index] for index in indices], [questions[index] for index in indices])
        rows |= zip(indices, encoded, strict=True)
        tensors |= made
    return [rows[index] for index in range(len(processors))], tensors
