"""Where a BLIP matcher looks for a text: GradCAM of its match over the patches of the image."""

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from llava_hh.baselines.halc.scorer import ImageTextMatcher
from llava_hh.files.module_hooks import hooked


def gradcam(matcher: ImageTextMatcher, image: Image.Image, text: str, block: int) -> tuple[Tensor, float]:
    """The map of a text over the patches of an image, (row, column) fp32, and the cosine of text and image.

    The map is the cross-attention of the text's tokens times the positive part of the match logit's gradient by it,
    averaged over heads and tokens. The two tokens that mark the ends of the text don't count.

    Args:
        matcher: of kind "blip".
        block: of the text encoder, whose cross-attention is read.
    Raises:
        ValueError: a block that the text encoder does not have.
    Source: LAVIS's GradCAM of BLIP-ITM, which AGLA uses; there too, [ENC] begins a text that is matched.
    """
    model = matcher.model
    blocks = model.text_encoder.encoder.layer
    if block >= len(blocks):
        raise ValueError(f"AGLA reads block {block} of the matcher's text encoder, which has 0 to {len(blocks) - 1}")
    cut = {"truncation": True, "max_length": matcher.longest}
    inputs = matcher.processor(images=image, text=text, return_tensors="pt", **cut).to(model.device)
    alone = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    matched = alone["input_ids"].clone()
    matched[:, 0] = model.config.text_config.bos_token_id + 1  # BLIP's vocabulary ends with [DEC], its bos, and [ENC]
    patches, attention = _seen(model, inputs["pixel_values"]), []

    def as_leaf(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        attention.append(args[0].detach().requires_grad_())
        return (attention[0],)

    with torch.enable_grad(), hooked([(blocks[block].crossattention.self.dropout, as_leaf)], before=True):
        read = model.text_encoder(
            **{**alone, "input_ids": matched},
            encoder_hidden_states=patches,
            encoder_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device),
        )
        match = model.itm_head(read.last_hidden_state[:, 0])[0, 1]
        (gradient,) = torch.autograd.grad(match, attention[0])
    weighted = (attention[0].detach() * gradient.clamp(min=0)).float()[0].mean(0)  # token patch
    of_text = weighted[1:-1, 1:]  # the first patch is the tower's class token
    n_rows = inputs["pixel_values"].shape[-2] // model.config.vision_config.patch_size
    return (of_text.sum(0) / max(len(of_text), 1)).view(n_rows, -1), _cosine(model, patches, alone)


@torch.no_grad()
def _seen(model: nn.Module, pixels: Tensor) -> Tensor:
    """What the vision tower makes of an image, (1, class token and patches, d_model)."""
    return model.vision_model(pixel_values=pixels).last_hidden_state


@torch.no_grad()
def _cosine(model: nn.Module, patches: Tensor, text: dict[str, Tensor]) -> float:
    shown = normalize(model.vision_proj(patches[:, 0]), dim=-1)
    said = normalize(model.text_proj(model.text_encoder(**text).last_hidden_state[:, 0]), dim=-1)
    return float((shown * said).sum())
