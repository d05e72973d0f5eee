"""A first-order guess of what zeroing each head does, from one backward pass: which heads are worth measuring."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from llava_hh.attention.function import ATTENTION
from llava_hh.attention.modules import attention_modules, switch_attention
from llava_hh.attribution.outputs import check_sample
from llava_hh.attribution.replacement import Copies, Zero
from llava_hh.attribution.sweep import read_prefix, sweep, target_log_probs


def estimate_every_head(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], positions: Sequence[int], target_ids: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """How much zeroing each head at the predicting position would lower each target's log-probability, to first order.

    Every head's output is multiplied by a gate of 1; the estimate is the derivative of the log-probability in the gate.
    It would be exact if the log-probability were linear in the gate. One forward and one backward pass, whose rows are
    the predicting positions alone.

    Args:
        model, inputs, positions, target_ids: the same as those of `ablate_every_head`.
    Returns: clean log-probabilities (target,), and the estimated drops (target, layer, head), nats, float32 on the CPU.
    Raises:
        ValueError: more than one sample, positions or targets that do not fit, a model in training mode or of an
            architecture that does not attend through AttentionInterface.
    Source: attribution patching (Nanda, 2023; Syed et al., "Attribution Patching Outperforms Automated Circuit
        Discovery", 2023), for zero ablation.
    """
    check_sample(model, inputs, positions, target_ids)
    attentions, n_heads = attention_modules(model), model.config.get_text_config().num_attention_heads
    if not positions:
        return torch.empty(0), torch.empty(0, len(attentions), n_heads)
    with switch_attention(model, ATTENTION):
        with torch.no_grad():
            prefix = read_prefix(model, attentions, inputs)
        with torch.enable_grad():
            devices = [layer.keys.device for layer in prefix.cache.layers]
            gates = [torch.ones(len(positions), n_heads, device=device, requires_grad=True) for device in devices]
            copies = Copies(range(0), {}, tuple(map(int, positions)), False, Zero(), None)
            hidden, _ = sweep(prefix, copies, gates)
            clean = target_log_probs(model, prefix, hidden, torch.as_tensor(target_ids, dtype=torch.long))
            slopes = torch.autograd.grad(clean.sum(), gates)
    return clean.detach(), torch.stack([slope.float().cpu() for slope in slopes], 1)


def estimated_influence(clean_log_probs: np.ndarray, drops: np.ndarray, read_out: str) -> np.ndarray:
    """What `contrast.influence` would be, to first order: (target,) and drops (target, ...) -> (target, ...).

    Args:
        drops: of log-probabilities, as `estimate_every_head` gives them.
        read_out: one of `contrast.READ_OUTS`.
    """
    if read_out == "log":
        return drops
    drop = np.exp(clean_log_probs).reshape(-1, *[1] * (drops.ndim - 1)) * drops
    return np.abs(drop) if read_out == "absolute" else drop
