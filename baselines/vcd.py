"""VCD, visual contrastive decoding: what the image says, less what a noised image would have the model say."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate, chain, pairwise
from typing import Annotated, Literal

import torch
from torch import Tensor
from transformers import LogitsProcessor, ProcessorMixin, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from llava_hh.baselines.sampling import draw_tokens, sample_generator
from llava_hh.baselines.settings import FLAG, POSITIVE, SHARE, CheckedSettings, Rule, at_least, optional, whole
from llava_hh.baselines.stepping import PER_ROW, Stepper, TokenIds, decode_rows
from llava_hh.baselines.twins import contrast
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

    def warpers(self) -> list[LogitsProcessor]:
        """What shapes the distribution before a draw, in transformers' order."""
        warpers = [TemperatureLogitsWarper(self.temperature)] if self.temperature != 1 else []
        warpers += [TopKLogitsWarper(self.top_k)] if self.top_k is not None else []
        warpers += [TopPLogitsWarper(self.top_p)] if self.top_p is not None and self.top_p < 1 else []
        return warpers


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
        return draw_tokens(reduce(lambda shaped, warper: warper(None, shaped), settings.warpers(), scores), generators)

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
    inputs = batch.inputs
    if batch.image_mask.any() and "pixel_values" not in inputs:
        raise CannotDecode(f"VCD noises pixel_values, which the inputs lack; they hold {', '.join(inputs)}")
    twins = {name: tensor.repeat_interleave(2, 0) for name, tensor in inputs.items() if name in PER_ROW}
    others = [name for name in inputs if name not in PER_ROW]
    if not others:
        return twins
    noised = inputs["pixel_values"].clone()
    pixels, lengths = noised[None], [1] * len(noised)
    if read := getattr(lvlm.family, "image_pixels", None):
        pixels, lengths = read(lvlm.processor, {**inputs, "pixel_values": noised})
    entries = entries_per_row(batch.image_mask, batch.n_images, lengths)
    for row, sample_id in zip(pixels.split(entries, 1), batch.sample_ids, strict=True):
        generator = sample_generator(settings.seed, sample_id, "noise")
        row.copy_(add_noise(row[0], generator, settings, lvlm.processor))
    for name in others:
        counts, twin = (entries, noised) if name == "pixel_values" else (batch.n_images, inputs[name])
        pairs = zip(inputs[name].split(counts), twin.split(counts), strict=True)
        twins[name] = torch.cat([*chain.from_iterable(pairs)])
    return twins


def entries_per_row(image_mask: Tensor, n_images: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """How many entries of pixel_values each row shows; they stand in the order of the rows.

    Args:
        n_images: how many images each row shows.
        lengths: how many entries each image has. Where there are more of them than images, an image is shown in
            several tiles, all with the same number of positions, and the rows' positions say how many.
    Raises:
        CannotDecode: tiles of different lengths.
    """
    if len(lengths) == sum(n_images):
        return [sum(lengths[first:end]) for first, end in pairwise(accumulate(n_images, initial=0))]
    positions = image_mask.sum(1).tolist()
    length, rest = divmod(sum(positions), len(lengths))
    if rest or not length or any(number % length for number in positions):
        raise CannotDecode(f"{len(lengths)} images cannot be dealt to rows of {positions} image positions")
    return [number // length for number in positions]
