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
from llava_hh.attribution.direct import has_direct_terms, without_terms
from llava_hh.attribution.outputs import check_sample
from llava_hh.attribution.replacement import Copies, Replacement, Zero, check_replacement
from llava_hh.attribution.sources import Reading
from llava_hh.attribution.sweep import read_prefix, sweep, target_log_probs
from llava_hh.heads import Head, by_layer, check_heads


@dataclass(frozen=True)
class Ablated:
    """Log-probabilities (nats) of the targets, float32 on the CPU: clean, and without each head, attention and MLP.

    without: without each head's reading of each source; share: the head's attention on that source.
    direct: without each head's own term in the final residual.
    """

    clean: Tensor  # target
    heads: Tensor  # target layer head
    mha: Tensor | None = None  # target layer
    mlp: Tensor | None = None  # target layer
    without: Tensor | None = None  # source target layer head
    share: Tensor | None = None  # source target layer head
    direct: Tensor | None = None  # target layer head


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
    sources: Sequence[str] = (),
    image_mask: Tensor | None = None,
    answer_start: int | None = None,
    renormalise: bool = False,
    direct: bool = False,
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
        max_rows: the most one-token rows that a sweep carries; at least 1 + n_copies, where n_copies is n_heads, times
            1 + the number of `sources`, plus 2 with `modules`. One target in full is 1 + n_layers * n_copies rows.
            Fewer rows mean less memory, more sweeps and the same answer. Peak memory on top of the model is about
            max_rows * (3 * d_ff values + 3 * n_heads * n_prefix float32), plus the keys and values of one sample, plus
            2 * `sweep.MAX_LOGITS` float32.
        heads: replace these alone; the others' log-probabilities are NaN. None: every head of the model.
        replacement: what an ablated output becomes.
        sample_id: which sample this is, 0 or more; it seeds `Noise`, and nothing else reads it.
        sources: as in `sources.Reading`. Beside the whole head, what it reads of each of these alone is taken away:
            its weighted values there, at the predicting position. Exact too; the parts add up to the whole head to
            first order only.
        image_mask, answer_start, renormalise: of `sources.Reading`; needed with `sources`.
        direct: measure also each head's direct effect: its own term, through o_proj, is taken from the final residual
            alone; final norm and vocabulary are computed anew. The rest of its influence goes through later layers.
    Raises:
        IndexError: a head that the model does not have.
        ValueError: more than one sample, positions, targets or sources that do not fit, few `max_rows`, `direct` where
            a norm follows o_proj (`has_direct_terms`), statistics of
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
    reading = None
    if sources:
        if image_mask is None or answer_start is None:
            raise ValueError("sources need image_mask and answer_start")
        reading = Reading(tuple(sources), image_mask, int(answer_start), renormalise)
    if direct and not has_direct_terms(model):
        raise ValueError("a norm follows o_proj: a head has no term of its own in the residual, and no direct effect")
    n_copies = [Copies.n_copies(len(heads_of.get(layer, ())), modules, reading) for layer in range(n_layers)]
    sweeps = _plan_sweeps(len(positions), n_copies, max_rows)

    clean = torch.empty(len(positions))
    of_heads = torch.full((len(positions), n_layers, n_heads), torch.nan)
    of_modules = torch.empty(2, len(positions), n_layers) if modules else (None, None)
    of_sources = [torch.full((len(sources), *of_heads.shape), torch.nan) for _ in range(2)] if sources else ()
    of_terms = torch.full_like(of_heads, torch.nan) if direct else None
    if sweeps:
        with switch_attention(model, ATTENTION):
            prefix = read_prefix(model, attentions, inputs)
            for chosen, swept in sweeps:
                about = (tuple(positions[chosen]), modules, replacement, sample_id, reading, {} if direct else None)
                copies = Copies(swept, heads_of, *about)
                hidden, target_of_row = sweep(prefix, copies)
                log_probs = target_log_probs(model, prefix, hidden, targets[chosen][target_of_row])
                n_targets = len(copies.positions)
                joined = log_probs.split([n_targets, *(n_targets * copies.per_target(layer) for layer in swept)])
                clean[chosen] = joined[0]
                for layer, of_layer in zip(swept, joined[1:], strict=True):
                    of_layer = of_layer.view(n_targets, -1)  # target copy
                    in_layer = heads_of.get(layer, [])
                    of_heads[chosen, layer, in_layer] = of_layer[:, : len(in_layer)]
                    if modules:
                        of_modules[:, chosen, layer] = of_layer[:, -2:].T
                    if reading and in_layer:
                        parts = of_layer[:, len(in_layer) : len(in_layer) * (1 + len(sources))]
                        parts = parts.unflatten(1, (-1, len(sources))).permute(2, 0, 1)  # source target head
                        of_sources[0][:, chosen, layer, in_layer] = parts
                        of_sources[1][:, chosen, layer, in_layer] = reading.shares.pop(layer)[:, :, in_layer]
                if of_terms is not None and copies.lost:
                    sizes = [n_targets * len(heads_of[layer]) for layer in copies.lost]
                    of_row = torch.cat(
                        [torch.arange(n_targets).repeat_interleave(len(heads_of[at])) for at in copies.lost]
                    )
                    rows = without_terms(prefix.layers, prefix.attentions, hidden[:n_targets], copies.lost, heads_of)
                    found = target_log_probs(model, prefix, rows, targets[chosen][of_row]).split(sizes)
                    for layer, of_layer in zip(copies.lost, found, strict=True):
                        of_terms[chosen, layer, heads_of[layer]] = of_layer.view(n_targets, -1)
    return Ablated(clean, of_heads, *of_modules, *(of_sources or (None, None)), of_terms)


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
