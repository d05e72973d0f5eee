"""AvisC: contrast with a twin that sees only the image tokens which soak up attention, whatever is asked."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from llava_hh.attention.call import AttentionCall
from llava_hh.attention.hooks import observe
from llava_hh.baselines.settings import FLAG, SHARE, CheckedSettings, at_least, number, whole
from llava_hh.baselines.stepping import Stepper, TokenIds, decode_rows
from llava_hh.baselines.twins import choose_by_contrast, prompt_embeddings, refuse_cross_attention, with_twins
from llava_hh.decoding.method import NO_EDITS, CannotDecode, Edits
from llava_hh.heads import Head
from llava_hh.models.lvlm import Batch, Lvlm

ANY = number("a number", lambda value: True)


@dataclass(frozen=True)
class AviscSettings(CheckedSettings):
    """Settings of AvisC.

    Args:
        alpha: weight of the contrast; 0 is greedy decoding, where nothing is drawn.
        beta: tokens less likely than `beta` times the most likely one are out.
        share: the layers that look at the image most are asked, as few as have this share of all layers' attention.
        spread: a token is blind if its attention is at least the mean plus this many standard deviations.
        do_sample, seed: draw the token, by the sample's id, as the code does, or take the best one.

    Raises:
        ValueError: a field that is not allowed.
    """

    alpha: Annotated[float, at_least(0)] = 1.0
    beta: Annotated[float, SHARE] = 0.1
    share: Annotated[float, SHARE] = 0.5
    spread: Annotated[float, ANY] = 1.0
    do_sample: Annotated[bool, FLAG] = True
    seed: Annotated[int, whole()] = 42


PRESETS = {"avisc": AviscSettings()}


def decode(lvlm: Lvlm, batch: Batch, settings: AviscSettings, max_new_tokens: int, edits: Edits = NO_EDITS) -> TokenIds:
    """Decode by AvisC; a row and its twin go through the model in the same forward.

    A pass over the prompt comes first, under no edits; it finds the tokens, which stay for the whole answer.

    Returns: the token ids of each row, without its end token.
    Raises:
        CannotDecode: a model that reads its image by cross-attention, or adds it again in later layers (Qwen3-VL), or
            drops keys of the prompt.
    Source: Woo et al., "Don't Miss the Forest for the Trees: Attentional Vision Calibration for Large Vision Language
        Models" (ACL 2025 Findings), and its code: spread 1, share 0.5, beta 0.1, alpha 1 where none is given.
    Differs: the code knows one image, at positions 35 to 610, and one row; ours is per row. It takes the clean logits
        where the twin's are NaN. A row without an image is decoded from its plain logits; the cut stays.
    """
    refuse_cross_attention(lvlm.model)
    if getattr(getattr(lvlm.model.config, "vision_config", None), "deepstack_visual_indexes", None):
        raise CannotDecode("AvisC hides image tokens where they enter; this model adds the image again in later layers")
    model, mask = lvlm.model, batch.image_mask.repeat_interleave(2, 0)
    seeing = batch.image_mask & ~blind_tokens(attention_on_image(lvlm, batch), batch.image_mask, settings)
    hidden = torch.stack([torch.zeros_like(seeing), seeing], 1).flatten(0, 1)

    def hide(states: Tensor) -> Tensor:
        return states.masked_fill(hidden.to(states.device)[..., None], 0)

    with edits.open(model, mask, torch.arange(len(mask)) % 2 == 0), prompt_embeddings(model, hide):
        stepper = Stepper(model, with_twins(lvlm, batch))
        return decode_rows(stepper, choose_by_contrast(batch, settings), max_new_tokens, copies=2)


@torch.no_grad()
def attention_on_image(lvlm: Lvlm, batch: Batch) -> Tensor:
    """What the last row of each prompt pays to its image tokens, mean over heads, (layer, row, position) fp32.

    Raises:
        CannotDecode: a layer that drops keys of the prompt.
    """
    seen: dict[int, Tensor] = {}

    def look(layer: int, heads: Tensor, call: AttentionCall) -> None:
        if call.key.shape[2] != batch.image_mask.shape[1]:
            raise CannotDecode("the attention on the image needs all keys of the prompt")
        seen[layer] = call.pattern(heads, call.query.shape[2] - 1)[:, :, 0].mean(1).to(batch.image_mask.device)

    heads = [Head(layer, head) for layer in range(lvlm.n_layers) for head in range(lvlm.n_heads)]
    with observe(lvlm.model, heads, look):
        Stepper(lvlm.model, batch.inputs).step()
    return torch.stack([seen[layer] for layer in sorted(seen)]) * batch.image_mask


def blind_tokens(attention: Tensor, image_mask: Tensor, settings: AviscSettings) -> Tensor:
    """The image tokens that get attention far above the mean, (row, position) bool.

    Args:
        attention: (layer, row, position), 0 where there is no image; image_mask: (row, position) bool.
    """
    looks = attention.sum(-1).T  # row layer
    shares, order = (looks / looks.sum(-1, keepdim=True).clamp(min=1e-30)).sort(dim=-1, descending=True, stable=True)
    asked = torch.arange(shares.shape[1], device=shares.device) <= (shares.cumsum(-1) < settings.share).sum(-1)[:, None]
    weights = torch.zeros_like(looks).scatter(1, order, asked.to(looks.dtype))
    found = torch.einsum("rl,lrk->rk", weights, attention) / weights.sum(-1, keepdim=True)
    n = image_mask.sum(-1, keepdim=True)
    mean = found.sum(-1, keepdim=True) / n.clamp(min=1)
    variance = ((found - mean) * image_mask).square().sum(-1, keepdim=True) / (n - 1).clamp(min=1)
    return image_mask & (found >= mean + settings.spread * variance.sqrt())
