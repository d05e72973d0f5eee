"""Token ids that a model has no embedding for: an error of one line, not of an index on the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def refuse_unknown_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, input_ids: Tensor, image_ids: Iterable[int]
) -> None:
    """See that every id has an embedding; a [PAD] that was added without resizing the embeddings has none.

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
