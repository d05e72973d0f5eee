"""VCD, visual contrastive decoding: what the image says, less what a noised image would have the model say."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from transformers import ProcessorMixin

from llava_hh.baselines.sampling import draw_tokens, sample_generator, warped
from llava_hh.baselines.settings import FLAG, POSITIVE, SHARE, CheckedSettings, Rule, at_least, optional, whole
from llava_hh.baselines.stepping import Stepper, TokenIds, decode_rows
from llava_hh.baselines.twins import contrast, with_twins
from llava_hh.decoding.method import NO_EDITS, CannotDecode, Edits
from llava_hh.models.lvlm import Batch, Lvlm

N_NOISE_STEPS = 1000
_STEPS = range(N_NOISE_STEPS)
NOISE_STEP = Rule(f"a whole number from 0 to {_STEPS[-1]}", lambda value: type(value) is int and value in _STEPS)


@dataclass(frozen=True)
class VcdSettings(CheckedSettings):
    """Settings of VCD.

    Args:
        alpha: weight of the contrast; 0 leaves the clean logits.
        beta: tokens less likely than `beta` times the most likely one are out.
        noise_step: how far the diffusion has gone, 0 (hardly any noise) to 999.
        do_sample: draw the token, as the paper does; otherwise take the best one.
        temperature, top_k, top_p: of the draw, applied in this order to the contrasted logits; None is off.
        noise_space: "normalized", the pixels that the model sees; "raw_unnormalized", see `add_noise`.
        seed: of the noise and the draws, together with the sample's id.

    Raises:
        ValueError: a field that is not allowed.
    """

    alpha: Annotated[float, at_least(0)] = 1.0
    beta: Annotated[float, SHARE] = 0.1
    noise_step: Annotated[int, NOISE_STEP] = 500
    do_sample: Annotated[bool, FLAG] = True
    temperature: Annotated[float, POSITIVE] = 1.0
    top_k: Annotated[int | None, optional(whole(1))] = None
    top_p: Annotated[float | None, optional(SHARE)] = None
    noise_space: Literal["normalized", "raw_unnormalized"] = "normalized"
    seed: Annotated[int, whole()] = 42


VCD_PAPER = VcdSettings()
# what the paper's harness in effect ran: its alpha and beta flags don't reach the sampler, generate's warpers do
VCD_REPO = VcdSettings(alpha=0.5, beta=0.1, top_k=50, top_p=0.9, noise_space="raw_unnormalized")
PRESETS = {"vcd_paper": VCD_PAPER, "vcd_repo": VCD_REPO}


def decode(lvlm: Lvlm, batch: Batch, settings: VcdSettings, max_new_tokens: int, edits: Edits = NO_EDITS) -> TokenIds:
    """Decode by VCD; both images of a row go through the model in the same forward, as adjacent rows.

    A block of `intervene` may be open on the same image_mask.

    Returns: the token ids of each row, without its end token.
    Raises:
        ValueError: another number of sample ids than of rows.
        CannotDecode: inputs without pixel_values, images of tiles that cannot be dealt to rows, or
            "raw_unnormalized" noise with a processor that doesn't normalise.
    Source: Leng et al., "Mitigating Object Hallucinations in LVLMs through Visual Contrastive Decoding" (CVPR 2024),
        and its code.
    Differs: suppressed ids are left out before the contrast, as if the vocabulary lacked them. A row without an image
        has nothing to contrast: it is decoded from its plain logits.
    """
    if len(batch.sample_ids) != len(batch.image_mask):
        raise ValueError(f"VCD needs a sample id for each of {len(batch.image_mask)} rows, not {len(batch.sample_ids)}")
    twins = with_noised_twins(lvlm, batch, settings)
    generators = [sample_generator(settings.seed, sample_id, "tokens") for sample_id in batch.sample_ids]

    def choose(logits: Tensor) -> Tensor:
        scores = contrast(logits[::2], logits[1::2], settings.alpha, settings.beta)
        if not settings.do_sample:
            return scores.argmax(-1)
        return draw_tokens(warped(scores, settings.temperature, settings.top_k, settings.top_p), generators)

    mask = batch.image_mask.repeat_interleave(2, 0)
    with edits.open(lvlm.model, mask, torch.arange(len(mask)) % 2 == 0):
        return decode_rows(Stepper(lvlm.model, twins), choose, max_new_tokens, copies=2)


def noise_scales(noise_step: int) -> tuple[float, float]:
    """What the image and the unit noise are multiplied by at a step of the diffusion.

    Source: VCD's code: variances rise along a sigmoid from 1e-5 to 5e-3 over 1,000 steps, in fp32.
    """
    betas = torch.linspace(-6, 6, N_NOISE_STEPS).sigmoid() * (0.5e-2 - 1e-5) + 1e-5
    kept = (1 - betas).cumprod(0)[noise_step]
    return kept.sqrt().item(), (1 - kept).sqrt().item()


def add_noise(pixels: Tensor, generator: torch.Generator, settings: VcdSettings, processor: ProcessorMixin) -> Tensor:
    """The pixels (..., channel, height, width) of one row, noised; one draw for all of them.

    With noise_space "raw_unnormalized" the noise is added to values in [0, 1], and the sum is what the model sees,
    without the processor's mean and spread: so the paper's harness did, while its clean image was normalised.

    Raises:
        CannotDecode: "raw_unnormalized" with a processor that doesn't normalise.
    """
    if settings.noise_space == "raw_unnormalized":
        images = getattr(processor, "image_processor", None)
        if not getattr(images, "do_normalize", False):
            name = type(images).__name__  # its repr has many lines
            raise CannotDecode(f"noise_space 'raw_unnormalized' undoes normalisation, which {name} does not do")
        mean, spread = pixels.new_tensor([images.image_mean, images.image_std])[..., None, None]
        pixels = pixels * spread + mean
    signal, noise = noise_scales(settings.noise_step)
    # drawn on the CPU in fp32, so that it is the same on every device and in every precision
    drawn = torch.randn(pixels.shape, generator=generator).to(pixels.device, pixels.dtype)
    return signal * pixels + noise * drawn


def with_noised_twins(lvlm: Lvlm, batch: Batch, settings: VcdSettings) -> dict[str, Tensor]:
    """The inputs with every row twice, side by side as beams stand: with its images, and with them noised.

    Raises:
        CannotDecode: image positions without pixel_values; tiles of different lengths.
    """

    def noise(pixels: Tensor, sample_id: object) -> Tensor:
        return add_noise(pixels, sample_generator(settings.seed, sample_id, "noise"), settings, lvlm.processor)

    return with_twins(lvlm, batch, noise)
