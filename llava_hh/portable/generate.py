"""AD-HH for plain transformers: `model.generate(**inputs, custom_generate=<folder>, trust_remote_code=True)`.

While it decodes, each listed head that puts a mass of at least the threshold on the tokens after the image has that
attention set to zero, row by row. Needs torch and transformers alone; a model that attends through transformers'
AttentionInterface; and batches padded on the left. A row decides where it predicts a token of the answer, that is from
the prompt's last position on, however `generate` runs: with a cache or without, in chunks, with an assistant. Written
by `llava-hh export`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

# transformers loads this file without the ones beside it, so the exporter writes the list into these two lines
HEADS: list[list[int]] = []
THRESHOLD = 0.4

ATTENTION = "adhh"
STATE = "adhh_state"  # on an attention module while its heads may be switched off: heads, threshold, last image, prompt


def generate(
    inputs: Tensor | None = None,
    *,
    model: PreTrainedModel,
    heads: Sequence[Sequence[int]] | None = None,
    threshold: float | None = None,
    **arguments: Any,
) -> Any:
    """What `model.generate` returns for these arguments, under AD-HH.

    Args:
        inputs: token ids (row, position), as `input_ids`; of the whole prompt, also where a cache holds some of it.
        heads: [layer, head] pairs, zero-based query heads; None is the list in this file.
        threshold: a fraction in [0, 1]; None is the one in this file.

    Raises:
        ValueError: a head that the model does not have, no heads, a threshold outside [0, 1], no token ids or only some
            of the prompt's, or a model whose image tokens or attention cannot be found.
        NotImplementedError: a sliding-window cache that may have dropped keys.

    Source: Understanding and Mitigating Hallucinations in LVLMs via Modular Attribution and Intervention (ICLR 2025).
    """
    heads = HEADS if heads is None else heads
    threshold = THRESHOLD if threshold is None else threshold
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must lie in [0, 1], not {threshold}")
    ids = arguments.get("input_ids") if inputs is None else inputs
    image = getattr(model.config, "image_token_id", None)
    if ids is None or image is None:
        raise ValueError("AD-HH finds the image in the token ids: it needs input_ids, and config.image_token_id")
    # not model.generate, which is this very function where a checkpoint's folder holds it
    plain = type(model).generate
    if any(STATE in module.__dict__ for module in model.modules()):  # the model assists itself, from a prompt
        return plain(model, inputs, **arguments)
    mask = arguments.get("attention_mask")
    if mask is not None and mask.shape[1] != ids.shape[1]:
        raise ValueError(f"AD-HH needs the whole prompt's input_ids: {mask.shape[1]} positions, not {ids.shape[1]}")
    with switched_off(model, heads, threshold, ids == image):
        return plain(model, inputs, **arguments)


@contextmanager
def switched_off(
    model: PreTrainedModel, heads: Sequence[Sequence[int]], threshold: float, image_mask: Tensor
) -> Iterator[None]:
    """Let `heads` be switched off in every forward of `model`; leaving restores the model, also by an exception.

    Args:
        image_mask: (row, prompt position) bool; a forward may have each row several times in a row (beams).
    """
    text_type = type(model.config.get_text_config(decoder=True))
    text_modules = [module for module in model.modules() if type(getattr(module, "config", None)) is text_type]
    attending = [module for module in text_modules if isinstance(getattr(module, "o_proj", None), nn.Module)]
    layers = {module.layer_idx: module for module in attending if isinstance(getattr(module, "layer_idx", None), int)}
    chosen: dict[int, list[int]] = {}
    for layer, head in heads:
        if layer not in layers or not 0 <= head < layers[layer].config.num_attention_heads:
            raise ValueError(f"the model has no head [{layer}, {head}]")
        if layer in (getattr(layers[layer].config, "cross_attention_layers", None) or ()):
            raise ValueError(f"layer {layer} attends to the image alone, nothing comes after it there")
        chosen.setdefault(layer, []).append(head)
    if not chosen:
        raise ValueError("AD-HH needs at least one head")
    for module in (module for module in text_modules if isinstance(module, PreTrainedModel)):
        if not (module._can_set_attn_implementation() and module._supports_sdpa):
            raise ValueError(f"{type(module).__name__} does not attend through transformers' AttentionInterface")
    positions = torch.arange(image_mask.shape[1], device=image_mask.device)
    last_image = torch.where(image_mask, positions, -1).amax(1, keepdim=True)
    configs = {id(module.config): module.config for module in text_modules}
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for layer, numbers in chosen.items():
            setattr(layers[layer], STATE, (sorted(set(numbers)), threshold, last_image, image_mask.shape[1]))
        for config in configs.values():
            config._attn_implementation = {"": ATTENTION}  # the key "" leaves a vision tower's configuration alone
        yield
    finally:
        for layer in chosen:
            layers[layer].__dict__.pop(STATE, None)
        for config, name in before:
            config._attn_implementation = {"": name}


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Fused attention, with the heads that fire rewritten in the rows that predict the answer.

    Shapes: query (batch, head, query, d_head), key and value (batch, kv_head, key, d_head); returns (batch, query,
    head, d_head).
    """
    output, _ = sdpa_attention_forward(module, query, key, value, mask, **settings)
    if STATE not in module.__dict__:
        return output, None
    numbers, threshold, last_image, prompt = module.__dict__[STATE]
    (batch, n_heads, n_queries, d_head), n_keys = query.shape, key.shape[2]
    window = settings.get("sliding_window")
    if window is not None and n_queries < n_keys and n_keys >= window:
        raise NotImplementedError(f"layer {module.layer_idx} slides over {window} keys: which are cached is unknown")
    key_positions = torch.arange(n_keys, device=query.device)
    if mask is not None:  # the last query stands at the last key that it sees, also where a static cache is longer
        shown = mask[:, 0, -1, :n_keys]
        shown = shown if shown.dtype == torch.bool else shown > torch.finfo(shown.dtype).min / 2
        last = torch.where(shown, key_positions, -1).amax()
    else:  # a prefill counts from key 0, even where a static cache is longer than it
        last = n_queries - 1 if n_queries > 1 else n_keys - 1
    query_positions = last - torch.arange(n_queries - 1, -1, -1, device=query.device)
    # of one row nobody waits for the device to tell which it is
    first = 0 if n_queries == 1 else min(max(0, prompt - 1 - int(query_positions[0])), n_queries)
    if first == n_queries or n_keys < prompt:
        return output, None
    query_positions = query_positions[first:]
    heads = torch.tensor(numbers, device=query.device)
    kv_heads = heads // (n_heads // key.shape[1])
    seen = key_positions <= query_positions[:, None]
    scaling = settings.get("scaling")
    scores = query[:, heads, first:].float() @ key[:, kv_heads].float().transpose(-1, -2)
    scores = scores * (d_head**-0.5 if scaling is None else scaling)
    if mask is not None:
        rows = mask[:, :, first:, :n_keys] if mask.shape[1] == 1 else mask[:, heads, first:, :n_keys]
        seen, scores = (rows, scores) if rows.dtype == torch.bool else (seen, scores + rows.float())
    pattern = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1) * seen  # batch head row key
    last_image = last_image.to(query.device).repeat_interleave(batch // len(last_image), 0)  # a row's beams in turn
    after_image = (key_positions > last_image) & (last_image >= 0)  # batch key
    decides = after_image[:, query_positions.clamp(min=0)] & (query_positions >= prompt - 1)  # batch row
    after_image = after_image[:, None, None]
    fires = (pattern.masked_fill(~after_image, 0).sum(-1) >= threshold) & decides[:, None]
    deactivated = pattern.masked_fill(after_image, 0) @ value[:, kv_heads].float()
    kept, output = output[:, first:, heads], output.clone()
    output[:, first:, heads] = torch.where(
        fires.transpose(1, 2)[..., None], deactivated.transpose(1, 2).to(kept.dtype), kept
    )
    return output, None


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
