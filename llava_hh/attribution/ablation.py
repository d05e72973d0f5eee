"""Log-probabilities of predicted tokens without each head or module, for all of these in few passes.

The obvious loop runs the language model once per head. Here one pass over the sample keeps every layer's keys and
values. One sweep over the layers then carries all ablated copies of the predicting tokens at once. In layer l a fresh
copy of the clean token joins the batch for each head of l, and, if asked, for its attention and its MLP. The copy loses
that output in l, and runs on to the vocabulary with the copies made in earlier layers. All read the same prefix.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from llava_hh.attention.function import ATTENTION
from llava_hh.attention.modules import attention_modules, switch_attention
from llava_hh.attribution.outputs import check_sample
from llava_hh.attribution.replacement import Copies, Replacement, Zero, check_replacement
from llava_hh.attribution.sweep import read_prefix, sweep, target_log_probs
from llava_hh.heads import Head, by_layer, check_heads


@dataclass(frozen=True)
class Ablated:
    """Log-probabilities (nats) of the targets, float32 on the CPU: clean, and without each head, attention and MLP."""

    clean: Tensor  # target
    heads: Tensor  # target layer head
    mha: Tensor | None = None  # target layer
    mlp: Tensor | None = None  # target layer


@torch.no_grad()
def ablate_every_head(
    model: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    positions: Sequence[int],
    target_ids: Sequence[int],
    max_rows: int = 4096,
    *,
    heads: Iterable[Head] | None = None,
    modules: bool = False,
    replacement: Replacement = Zero(),  # noqa: B008
    sample_id: int | None = None,
) -> Ablated:
    """Log-probability of each target token, clean and with each head of the language model replaced in turn.

    A head is replaced (its slice of the o_proj input) at the predicting position alone. All earlier positions stay
    clean, as in one cached decoding step; in later layers the predicting position sees its ablated key and value. With
    `modules`, each layer's attention output (of o_proj) and MLP output (of `mlp`) are replaced too, before any norm or
    gate that follows them; residual and norms stay. Exact: equal to one cached forward pass per head, up to rounding.

    Args:
        model: any transformers model that attends through AttentionInterface, in eval mode.
        inputs: forward arguments of one teacher-forced sample: `input_ids` or `inputs_embeds` of shape
            (1, position[, d_model]), and what else the model takes (`attention_mask`, `pixel_values`, ...).
        positions: the positions whose logits predict the targets: a target that is token p + 1 has position p.
        target_ids: the token id to score at each of `positions`; it need not be the one in `inputs`.
        max_rows: the most one-token rows that a sweep carries; at least 1 + n_copies, where n_copies is n_heads, plus 2
            with `modules`. One target in full is 1 + n_layers * n_copies rows. Fewer rows mean less memory, more sweeps
            and the same answer. Peak memory on top of the model is about max_rows * (3 * d_ff values + 3 * n_heads *
            n_prefix float32), plus the keys and values of one sample, plus 2 * `sweep.MAX_LOGITS` float32.
        heads: replace these alone; the others' log-probabilities are NaN. None: every head of the model.
        replacement: what an ablated output becomes.
        sample_id: which sample this is, 0 or more; it seeds `Noise`, and nothing else reads it.
    Raises:
        IndexError: a head that the model does not have.
        ValueError: more than one sample, positions or targets that do not fit, too small a `max_rows`, statistics of
            another model, noise without a `sample_id`, a model in training mode or of an architecture that does not
            attend through AttentionInterface; with `modules`, a layer without an `mlp` that returns a tensor.

    Source: paper, counterfactual influence of attention heads and of per-layer MHA and MLP modules; zeroing at a
        single position as in the released code.
    Differs: the released code has heads and zeroing only, runs one forward pass per head and has 32 layers of 32 heads
        written into it. At a caption's very first token its forward pass is the prefill, so it zeroes the head at all
        positions of the prompt; here at the predicting position, as for every other token.
    """
    attentions = attention_modules(model)
    n_layers, n_heads = len(attentions), model.config.get_text_config().num_attention_heads
    check_sample(model, inputs, positions, target_ids)
    o_proj = next(iter(attentions.values())).o_proj
    shapes = {"heads": (n_layers, n_heads, o_proj.in_features // n_heads)}
    if modules:
        shapes |= dict.fromkeys(("mha", "mlp"), (n_layers, o_proj.out_features))
    check_replacement(replacement, shapes, sample_id)
    heads = [Head(*index) for index in np.ndindex(n_layers, n_heads)] if heads is None else list(heads)
    check_heads(heads, n_layers, n_heads)
    heads_of = by_layer(heads)
    positions, targets = [int(position) for position in positions], torch.as_tensor(target_ids, dtype=torch.long)
    n_copies = [len(heads_of.get(layer, ())) + 2 * modules for layer in range(n_layers)]
    sweeps = _plan_sweeps(len(positions), n_copies, max_rows)

    clean = torch.empty(len(positions))
    of_heads = torch.full((len(positions), n_layers, n_heads), torch.nan)
    of_modules = torch.empty(2, len(positions), n_layers) if modules else ()
    if sweeps:
        with switch_attention(model, ATTENTION):
            prefix = read_prefix(model, attentions, inputs)
            for chosen, swept in sweeps:
                copies = Copies(swept, heads_of, tuple(positions[chosen]), modules, replacement, sample_id)
                hidden, target_of_row = sweep(prefix, copies)
                log_probs = target_log_probs(model, prefix, hidden, targets[chosen][target_of_row])
                n_targets = len(copies.positions)
                joined = log_probs.split([n_targets, *(n_targets * copies.per_target(layer) for layer in swept)])
                clean[chosen] = joined[0]
                for layer, of_layer in zip(swept, joined[1:], strict=True):
                    of_layer = of_layer.view(n_targets, -1)  # target copy
                    of_heads[chosen, layer, heads_of.get(layer, [])] = of_layer[:, : of_layer.shape[1] - 2 * modules]
                    if modules:
                        of_modules[:, chosen, layer] = of_layer[:, -2:].T
    return Ablated(clean, of_heads, *of_modules)


def _plan_sweeps(n_targets: int, copies: Sequence[int], max_rows: int) -> list[tuple[slice, range]]:
    """Which targets each sweep carries, and which layers it copies them in: as many as `max_rows` rows allow.

    Args:
        copies: of one target, how many rows join in each layer.
    """
    if max_rows < 1 + max(copies):
        raise ValueError(f"max_rows is {max_rows}; the copies of one layer need at least 1 + {max(copies)} rows")
    targets_per_sweep = max(1, max_rows // (1 + sum(copies)))
    ends, rows = [], 1
    for layer, joining in enumerate(copies):  # cut only where one target fills a sweep
        if rows + joining > max_rows:
            ends.append(layer)
            rows = 1
        rows += joining
    parts = [range(*ends_of_part) for ends_of_part in pairwise([0, *ends, len(copies)])]
    targets = [slice(first, first + targets_per_sweep) for first in range(0, n_targets, targets_per_sweep)]
    return list(product(targets, parts))
