"""ONLY: second logits from the first layer's attention alone, without its outliers and its heads for the image."""

from dataclasses import dataclass
from itertools import count
from typing import Annotated

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llava_hh.attention.call import AttentionCall
from llava_hh.attention.hooks import observe
from llava_hh.attention.modules import attention_modules, decoder_layers
from llava_hh.attribution.direct import MULTIPLIER, has_direct_terms
from llava_hh.attribution.outputs import mlp_of
from llava_hh.baselines.lens import final_norm
from llava_hh.baselines.sampling import next_token
from llava_hh.baselines.settings import FLAG, SHARE, CheckedSettings, at_least, whole
from llava_hh.baselines.stepping import Stepper, TokenIds, decode_rows
from llava_hh.baselines.twins import below_cut, refuse_cross_attention
from llava_hh.baselines.vista import last_outputs
from llava_hh.decoding.method import CannotDecode
from llava_hh.heads import Head
from llava_hh.models.lvlm import Batch, Lvlm

INPUT, FINAL = 0.2, 0.5  # shares of the last layer's input, and of the final hidden state
LOG_FLOOR = 1e-6


@dataclass(frozen=True)
class OnlySettings(CheckedSettings):
    """Settings of ONLY.

    Args:
        agree, differ: weight of the second logits where both distributions are alike, which are added, and where they
            are not, which are taken away; 0 and 0 are greedy decoding, where nothing is drawn.
        distance: from which sum of absolute differences of probabilities on they are not alike.
        beta: tokens less likely than `beta` times the most likely one are out.
        do_sample, seed: draw the token, by the sample's id, as the code does, or take the best one.

    Raises:
        ValueError: a field that is not allowed.
    """

    agree: Annotated[float, at_least(0)] = 3.0
    differ: Annotated[float, at_least(0)] = 1.0
    distance: Annotated[float, at_least(0)] = 0.25
    beta: Annotated[float, SHARE] = 0.1
    do_sample: Annotated[bool, FLAG] = True
    seed: Annotated[int, whole()] = 42


PRESETS = {"only": OnlySettings(), "only_pope": OnlySettings(distance=0.2)}


def decode(lvlm: Lvlm, batch: Batch, settings: OnlySettings, max_new_tokens: int) -> TokenIds:
    """Decode by ONLY: one forward a token, and one more pass of its last position through the last layer's MLP.

    Returns: the token ids of each row, without its end token.
    Raises:
        CannotDecode: a model that reads its image by cross-attention, drops keys, scales its logits, or has norms or
            factors between a layer's parts and the residual.
    Source: Wan et al., "ONLY: One-Layer Intervention Sufficiently Mitigates Hallucinations in Large Vision-Language
        Models" (ICCV 2025), and its code: 3 and 1, beta 0.1, distance 0.25 for captions and 0.2 for POPE.
    Differs: the code sums the distance over a batch, knows positions 35 to 610 and layer 31 alone; ours is per row. A
        row without an image is decoded from its plain logits. What stands first in a row is left as it is, its first
        token; where that is the image's, only the image's rule acts on it.
    """
    refuse_cross_attention(lvlm.model)
    model, layers = lvlm.model, decoder_layers(lvlm.model)
    refuse_other_layers(model)
    norm, head, last = final_norm(model), model.get_output_embeddings(), len(layers) - 1
    take, has_image, memory = next_token(batch, settings), batch.image_mask.any(1), {}

    n_keys = count(batch.image_mask.shape[1])

    def look(layer: int, heads: Tensor, call: AttentionCall) -> None:
        if call.key.shape[2] != next(n_keys):
            raise CannotDecode("ONLY needs a cache that keeps every key in the first layer")
        weights = text_alone(call.pattern(heads, call.query.shape[2] - 1)[:, :, 0], batch.image_mask, call.seen_keys)
        outputs = (weights[:, :, None] @ call.values(heads).float())[:, :, 0]
        memory["first"] = outputs.flatten(1).to(call.output.dtype)

    stepper = Stepper(model, batch.inputs)

    def choose(logits: Tensor) -> Tensor:
        entering, leaving = hidden[last], outputs[last]
        alone = attention_modules(model)[0].o_proj(memory["first"]).to(entering.device)
        path = layers[last].input_layernorm(alone) + INPUT * entering
        path = path + mlp_of(layers[last])(layers[last].post_attention_layernorm(path))
        second = stepper.suppress(head(norm(path) + FINAL * norm(leaving))).to(logits.device)
        second = second.masked_fill(logits <= torch.finfo(model.dtype).min, -torch.inf)  # as the model masks its own
        scores = mixed(logits, second, settings)
        return take(torch.where(has_image.to(logits.device)[:, None], scores, logits))

    heads = [Head(0, head) for head in range(lvlm.n_heads)]
    with observe(model, heads, look), stepper.watch([last]) as hidden, last_outputs(model, [last]) as outputs:
        return decode_rows(stepper, choose, max_new_tokens)


def refuse_other_layers(model: PreTrainedModel) -> None:
    """Check that a layer is norm, attention, norm, MLP, each added to the residual as it is, and logits the product.

    Raises:
        CannotDecode: it is not.
    """
    text, layer = model.config.get_text_config(), decoder_layers(model)[-1]
    has_factors = {getattr(text, name, None) or 1 for name in (MULTIPLIER, "logits_scaling")} != {1}
    has_norms = all(hasattr(layer, name) for name in ("input_layernorm", "post_attention_layernorm"))
    if not has_direct_terms(model) or has_factors or not has_norms or getattr(text, "final_logit_softcapping", None):
        name = type(layer).__name__
        raise CannotDecode(f"ONLY needs layers whose parts are added to the residual as they are; {name} has others")


def text_alone(pattern: Tensor, image_mask: Tensor, seen: Tensor) -> Tensor:
    """The attention of a row without outlier keys and without the heads whose text is no more spread than the image.

    Args:
        pattern: (row, head, key) fp32; image_mask: (row, prompt position); seen: (row, key), False at padding.
    Returns: (row, head, key); a head whose ratio of entropies, text over image, is below the row's mean is 0.
    """
    image = torch.zeros_like(seen)
    image[:, : image_mask.shape[1]] = image_mask.to(seen.device)
    first = torch.arange(seen.shape[1], device=seen.device) == seen.long().argmax(1)[:, None]
    text = seen & ~image & ~first
    entropies = []
    for keys in (text[:, None], image[:, None]):
        n = keys.sum(-1, keepdim=True)
        mean = (pattern * keys).sum(-1, keepdim=True) / n.clamp(min=1)
        variance = ((pattern - mean) * keys).square().sum(-1, keepdim=True) / (n - 1).clamp(min=1)
        pattern = pattern.masked_fill(keys & (pattern > mean + variance.sqrt()), 0)
        weights = pattern * keys
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
        entropies.append(-(weights * (weights + LOG_FLOOR).log()).sum(-1))
    ratio = entropies[0] / entropies[1]
    return pattern.masked_fill((ratio < ratio.mean(-1, keepdim=True))[..., None], 0)


def mixed(logits: Tensor, second: Tensor, settings: OnlySettings) -> Tensor:
    """Scores (row, vocabulary): the second logits added where both distributions are alike, else taken away."""
    distance = (logits.softmax(-1) - second.softmax(-1)).abs().sum(-1, keepdim=True)
    weight = torch.where(distance < settings.distance, settings.agree, -settings.differ)
    scores = logits + weight * second + torch.where(weight < 0, settings.differ, 0.0) * logits
    return scores.masked_fill(below_cut(logits, settings.beta), -torch.inf)
