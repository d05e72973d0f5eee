"""Several continuations of every prompt in one forward: a tree of tokens behind a prompt that is cached once."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicLayer

from llava_hh.attention.hooks import is_edited, observe
from llava_hh.attention.interventions import AttentionCall
from llava_hh.attention.modules import attention_modules
from llava_hh.baselines.stepping import Stepper
from llava_hh.decoding.method import CannotDecode
from llava_hh.heads import Head


class Branches(Stepper):
    """A batch of prompts, and the tokens that were tried behind each of them.

    The cache has a row per prompt and a column per token. A forward takes many tokens of a row at once. Each of them
    sees the prompt, the columns that it is told to, and itself, but not its neighbours. So beams share the keys and
    values of the prompt, candidates share those of their beam, and nothing is copied per beam. Going back to an earlier
    token takes no more than naming its columns. Call `step` once, for the prompt, then `grow` and `keep`.

    Args:
        inputs: what model.forward takes, see `Stepper`.

    Raises:
        CannotDecode: images that are read by cross-attention; on `step`, a cache that drops keys; a block of
            `intervene` that is open, since branches share columns, by which it finds the rows that predict the answer.
    """

    def __init__(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
        if "cross_attention_mask" in inputs:
            raise CannotDecode("this model reads its image by cross-attention, not at positions of the prompt")
        if is_edited(model):
            raise CannotDecode("OPERA takes no intervention")
        super().__init__(model, inputs)
        self._attention: Tensor | None = None  # of the last `grow`

    @property
    def prompt_mask(self) -> Tensor:
        """(row, prompt position) bool, False at padding; after `step`."""
        return self._state["attention_mask"][:, :-1].bool()  # `step` adds a column for the token after the prompt

    @property
    def n_columns(self) -> int:
        """How many columns the cache has, those of the prompt included."""
        return self._state["past_key_values"].get_seq_length()

    def step(self, tokens: Tensor | None = None) -> Tensor:
        logits = super().step(tokens)
        if (kinds := {type(layer) for layer in self._state["past_key_values"].layers}) != {DynamicLayer}:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise CannotDecode(f"branches need a cache that keeps every key; this model's has {names}")
        return logits

    def watched(self) -> AbstractContextManager[None]:
        """Let `grow` return attention while the block is open; `step` leaves it out.

        Raises:
            ValueError: a model whose attention cannot be observed.
        """
        last = max(modules := attention_modules(self.model))
        heads = [Head(last, head) for head in range(modules[last].config.num_attention_heads)]
        return observe(self.model, heads, self._watch)

    def _watch(self, layer: int, heads: Tensor, call: AttentionCall) -> None:
        if "past_key_values" in self._state:  # the prompt is cached
            strongest = call.pattern(heads).amax(1)
            self._attention = strongest / strongest.sum(-1, keepdim=True)

    def grow(self, tokens: Tensor, seen: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
        """Run tokens that each add one to a branch; inside `watched`. Their columns are the last ones until `keep`.

        Args:
            tokens: (row, token) ids.
            seen: (row, token, column) bool, over all columns that the cache has: the prompt and the token's branch.
            depths: (row,) how many tokens stand between the prompt and these.
        Returns: logits (row, token, vocabulary) as `step` gives them, and the last layer's attention, (row, token,
            column + token) fp32: the maximum over its heads, divided by its sum over all keys.
        """
        n_rows, n_tokens = tokens.shape
        itself = torch.eye(n_tokens, dtype=torch.bool, device=seen.device).expand(n_rows, -1, -1)
        first = self._state["position_ids"][..., -1:]
        state = {name: value for name, value in self._state.items() if name != "logits_to_keep"}
        state["attention_mask"] = torch.cat([seen, itself], -1)[:, None]
        state["position_ids"] = (first + depths[:, None]).expand(*first.shape[:-1], n_tokens)
        tokens = tokens.to(seen.device)
        inputs = self.model.prepare_inputs_for_generation(tokens, next_sequence_length=n_tokens, **state)
        logits = self.model(**inputs, return_dict=True).logits
        return self.suppress(logits), self._attention.to(logits.device)

    def keep(self, chosen: Tensor, n_before: int) -> None:
        """Of the columns from `n_before` on, keep the chosen, in this order, and drop the others.

        Args:
            chosen: (row, kept) indices of columns, counted from `n_before`.
        """
        n_kept = chosen.shape[1]
        for layer in self._state["past_key_values"].layers:
            for name in ("keys", "values"):
                held = getattr(layer, name)  # row key_head column d_head; made by this forward and used nowhere else
                index = chosen[:, None, :, None].to(held.device).expand(-1, held.shape[1], -1, held.shape[3])
                held[:, :, n_before : n_before + n_kept] = held[:, :, n_before:].gather(2, index)
                setattr(layer, name, held[:, :, : n_before + n_kept])
