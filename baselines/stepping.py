"""The step loop that all decoders share: prefill, cached steps, positions, suppressed ids, rows that end."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llava_hh.attention.modules import decoder_layers
from llava_hh.files.module_hooks import hooked
from llava_hh.models.token_ids import end_ids

TokenIds = list[list[int]]  # the token ids of each row, without its end token
# inputs with one entry per row of the batch; any other has one per image
PER_ROW = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids")


class Stepper:
    """A batch while it is being decoded: cache, attention mask, positions. Each step gives the next token's logits.

    The inputs of a step are made by the model's own methods, those that `generate` calls, so that a family with
    another kind of position or mask is stepped as `generate` would. Batches must be padded on the left.

    Args:
        inputs: what model.forward takes, `input_ids` or `inputs_embeds` among it; not changed.

    Raises:
        ValueError: neither of the two.
    """

    def __init__(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
        self.model = model
        state: dict[str, Any] = dict(inputs)
        prompt = state.pop("input_ids", None)
        if prompt is None:
            if "inputs_embeds" not in state:
                raise ValueError(f"expected input_ids or inputs_embeds among the inputs, not only {sorted(inputs)}")
            prompt = state["inputs_embeds"].new_empty(len(state["inputs_embeds"]), 0, dtype=torch.long)
        self._prompt = prompt
        shown = state.get("inputs_embeds", prompt)
        state.setdefault("attention_mask", torch.ones(shown.shape[:2], dtype=torch.long, device=shown.device))
        if "position_ids" not in state:
            state["position_ids"] = model._prepare_position_ids_for_generation(shown, {"input_ids": prompt, **state})
        self._state = {
            **state,
            "use_cache": True,
            **({"logits_to_keep": 1} if model._supports_logits_to_keep() else {}),
        }
        self._suppressed = torch.tensor(model.generation_config.suppress_tokens or [], dtype=torch.long)

    @property
    def n_rows(self) -> int:
        return len(self._prompt)

    def step(self, tokens: Tensor | None = None) -> Tensor:
        """Logits after the prompt, or after `tokens` (row,) where given; (row, vocabulary), at least fp32.

        What generation_config.suppress_tokens lists is -inf. The result is the caller's to change.
        """
        first = tokens is None
        inputs = self.model.prepare_inputs_for_generation(
            self._prompt if first else tokens.to(self._prompt.device)[:, None],
            next_sequence_length=None if first else 1,
            is_first_iteration=first,
            **self._state,
        )
        outputs = self.model(**inputs, return_dict=True)
        self._state = self.model._update_model_kwargs_for_generation(outputs, self._state, is_encoder_decoder=False)
        return self.suppress(outputs.logits[:, -1])

    def suppress(self, logits: Tensor) -> Tensor:
        """A copy of logits (..., vocabulary), at least fp32, in which suppressed ids are -inf."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        self._suppressed = self._suppressed.to(logits.device)
        return logits.index_fill_(-1, self._suppressed, -torch.inf)

    @contextmanager
    def watch(self, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """Keep, while the block is open, the last position's hidden state that enters each of `layers`.

        Numbers are those of transformers' hidden_states: 0 is the embeddings, j the output of decoder layer j - 1,
        neither normed. Only the last position is held, (row, d_model) by layer, and renewed by every step.
        """
        kept: dict[int, Tensor] = {}
        modules = decoder_layers(self.model)

        def keep(layer: int, _: nn.Module, args: tuple, kwargs: dict) -> None:
            # a copy, so that a view doesn't hold the whole prefill
            kept[layer] = (args[0] if args else kwargs["hidden_states"])[:, -1].clone()

        hooks = ((modules[layer], partial(keep, layer)) for layer in layers)
        with hooked(hooks, before=True, with_kwargs=True):
            yield kept


@torch.no_grad()
def decode_rows(stepper: Stepper, choose: Callable[[Tensor], Tensor], max_new_tokens: int, copies: int = 1) -> TokenIds:
    """Decode until every row has ended, or has `max_new_tokens` tokens.

    Args:
        choose: from logits (row * copies, vocabulary) to the next tokens (row,).
        copies: how many adjacent rows of the stepper decode one answer; all of them get the chosen token.
    Returns: the token ids of each row without its end token; a row of fewer than `max_new_tokens` stopped by itself.
    Raises:
        ValueError: `max_new_tokens` below 1.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    ends, pad = end_ids(stepper.model), pad_id(stepper.model)
    rows: TokenIds = [[] for _ in range(stepper.n_rows // copies)]
    ended, fed = [False] * len(rows), None
    for _ in range(max_new_tokens):
        tokens = choose(stepper.step(fed)).tolist()
        for row, token in enumerate(tokens):
            ended[row] = ended[row] or token in ends
            rows[row] += [token] * (not ended[row])
        if all(ended):
            break
        padded = [pad if over else token for token, over in zip(tokens, ended, strict=True)]
        fed = torch.tensor(padded).repeat_interleave(copies)
    return rows


def pad_id(model: PreTrainedModel) -> int:
    """What stands in a row that has ended, or where a position is masked; no other position sees it."""
    pad = model.generation_config.pad_token_id
    return min(end_ids(model), default=0) if pad is None else pad
