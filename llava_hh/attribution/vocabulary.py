"""From hidden states to log-probabilities of target tokens, by the model's final norm, vocabulary and logit rules."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llava_hh.attention.modules import attribute_set
from llava_hh.attribution.sweep import Prefix

MAX_LOGITS = 3 * 2**22  # logits that exist at the same time: 50 MB in float32
CPU_BLOCK = 1024  # words per product on a CPU, where one product over a whole vocabulary is slower by a third


def target_log_probs(model: PreTrainedModel, prefix: Prefix, hidden: Tensor, target_ids: Tensor) -> Tensor:
    """Log-probability (nats) of each row's target, (row,) float32 on the CPU.

    The model runs on one token, and its decoder layers return rows of `hidden` instead of computing. So final norm,
    vocabulary product and what a family does to its logits (soft capping, masked image tokens) are the model's.

    Args:
        prefix: of the sweep that computed `hidden`.
        hidden: output of the last of them, (row, 1, d_model).
        target_ids: (row,).
    """
    chunk = max(1, MAX_LOGITS // model.config.get_text_config().vocab_size)
    log_probs = []
    for rows, targets in zip(hidden.split(chunk), target_ids.split(chunk), strict=True):
        output = (rows,) if prefix.layers_return_tuples else rows
        with ExitStack() as stack:
            for layer in prefix.layers:
                stack.enter_context(attribute_set(layer, "forward", lambda *_, output=output, **__: output))
            stack.enter_context(_head_in_blocks(model.get_output_embeddings()))
            token = targets[:1, None].to(model.device)
            logits = model(input_ids=token, use_cache=False, return_dict=True).logits[:, -1]  # row vocabulary
        chosen = logits.float().log_softmax(dim=-1).gather(1, targets[:, None].to(logits.device))
        log_probs.append(chosen[:, 0].cpu())
    return torch.cat(log_probs)


@contextmanager
def _head_in_blocks(head: nn.Module | None) -> Iterator[None]:
    """Let a plain linear vocabulary head on a CPU multiply CPU_BLOCK words at a time; the same sums, no gradients."""
    plain = type(head) is nn.Linear and head.bias is None and head.weight.device.type == "cpu"
    if not plain or torch.is_grad_enabled():
        yield
        return

    def multiply(hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, -2)
        logits = rows.new_empty(len(rows), head.out_features)
        for words in range(0, head.out_features, CPU_BLOCK):
            torch.mm(rows, head.weight[words : words + CPU_BLOCK].T, out=logits[:, words : words + CPU_BLOCK])
        return logits.unflatten(0, hidden.shape[:-1])

    with attribute_set(head, "forward", multiply):
        yield
