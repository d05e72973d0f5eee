"""AGLA: logits of the image, plus those of the image without what the question is not about."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from llava_hh.baselines.avisc import attention_on_image
from llava_hh.baselines.gradcam import gradcam
from llava_hh.baselines.halc.scorer import ImageTextMatcher, named_scorer
from llava_hh.baselines.halc.settings import TOOL
from llava_hh.baselines.sampling import next_token
from llava_hh.baselines.settings import FLAG, SHARE, CheckedSettings, at_least, whole
from llava_hh.baselines.stepping import Stepper, TokenIds, decode_rows
from llava_hh.baselines.twins import asked_twice, below_cut
from llava_hh.decoding.method import NO_EDITS, CannotDecode, Edits
from llava_hh.models.hub import local_folder
from llava_hh.models.image_grid import WHOLE, Box
from llava_hh.models.lvlm import Batch, Lvlm

SIDE = 384  # cells of a smoothed map along each side of the picture: the pixels that BLIP-ITM sees
SPREAD = 0.02 * SIDE  # standard deviation of the blur, in cells
MOST_KEPT = 1 - 1e-5

Values = NDArray[np.float64]


@dataclass(frozen=True)
class _Settings(CheckedSettings):
    """What both kinds of AGLA have.

    Args:
        alpha: weight of the logits of the masked image; 0 is greedy decoding.
        beta: tokens less likely than `beta` times the most likely one, by the whole image, are out.
        do_sample, seed: draw the token, by the sample's id, as the code does, or take the best one.

    Raises:
        ValueError: a field that is not allowed.
    """

    alpha: Annotated[float, at_least(0)] = 2.0
    beta: Annotated[float, SHARE] = 0.5
    do_sample: Annotated[bool, FLAG] = True
    seed: Annotated[int, whole()] = 42


@dataclass(frozen=True)
class AglaSettings(_Settings):
    """Settings of AGLA: those of `_Settings`, and which BLIP says what the question is about.

    Args:
        matcher: folder of a BLIP image-text matcher or its name on the hub; the paper's is the large one.
        block: of its text encoder, whose cross-attention is read.

    Raises:
        ValueError: a field that is not allowed.
    """

    matcher: Annotated[str, TOOL] = "checkpoints/blip-itm-large-coco"
    block: Annotated[int, whole()] = 6

    def tools(self) -> dict[str, object]:
        """The weights of the matcher, by this name."""
        return {"matcher": local_folder(self.matcher, any_kind=True)}


@dataclass(frozen=True)
class AglaSelfSettings(_Settings):
    """Settings of AGLA by the model's own attention: those of `_Settings`, and how much of a picture is kept.

    Args:
        kept: share of the picture, from above 0 to 1, that the masked image keeps. No source states one: 0.8 is what
            AGLA keeps where BLIP's cosine is 0.4.

    Raises:
        ValueError: a field that is not allowed.
    """

    kept: Annotated[float, SHARE] = 0.8


PRESETS = {"agla": AglaSettings(), "agla_self": AglaSelfSettings()}


def decode(
    lvlm: Lvlm,
    batch: Batch,
    settings: AglaSettings | AglaSelfSettings,
    max_new_tokens: int,
    edits: Edits = NO_EDITS,
) -> TokenIds:
    """Decode by AGLA; a row and its twin, with the masked image, go through the model in the same forward.

    A row without an image is decoded from its plain logits; the cut stays.

    Returns: the token ids of each row, without its end token.
    Raises:
        CannotDecode: a batch of more than the question, such as one with answers; for AglaSelfSettings, a family that
            cannot say where in the picture its image tokens look.
        ValueError: a matcher that is no BLIP, or lacks the block.
        FileNotFoundError: there is no such matcher.
    Source: An et al., "Mitigating Object Hallucinations in Large Vision-Language Models with Assembly of Global and
        Local Attention" (CVPR 2025), and its code: alpha 2, beta 0.5, sampled.
    Differs: the code answers a picture squashed to 384 x 384 pixels where it is masked; ours keeps its size, so that
        the model's own processor treats both alike.
    """
    by_itself = isinstance(settings, AglaSelfSettings)
    masked = masked_by_attention(lvlm, batch, settings) if by_itself else masked_by_matcher(batch, settings)
    both = asked_twice(lvlm, batch, masked, batch.prompts, "AGLA")
    shown = torch.tensor([image is not None for image in batch.images])[:, None]
    take = next_token(batch, settings)

    def choose(logits: Tensor) -> Tensor:
        return take(assembled(logits[::2], logits[1::2], settings.alpha * shown.to(logits.device), settings.beta))

    with edits.open(lvlm.model, both.image_mask, torch.arange(len(both.prompts)) % 2 == 0):
        return decode_rows(Stepper(lvlm.model, both.inputs), choose, max_new_tokens, copies=2)


def assembled(clean: Tensor, masked: Tensor, alpha: Tensor, beta: float) -> Tensor:
    """clean + alpha masked, and -inf where clean falls below its maximum plus log beta.

    Args:
        clean, masked: logits (row, vocabulary) by the whole and by the masked image.
        alpha: (row, 1).
        beta: above 0, so that suppressed ids, which are -inf, are out.
    """
    return (clean + alpha * masked).masked_fill(below_cut(clean, beta), -torch.inf)


def masked_by_matcher(batch: Batch, settings: AglaSettings) -> list[Image.Image | None]:
    """Each row's picture without what BLIP's GradCAM says that the question is not about.

    A picture keeps a share of 1 less half the cosine of the question and the picture, so one that fits loses more. The
    question is the first line of the prompt; behind it stands how to answer.

    Raises:
        ValueError: a matcher that is no BLIP, or lacks the block.
        FileNotFoundError: there is no such matcher.
    """
    matcher = named_scorer(settings.matcher)
    if not isinstance(matcher, ImageTextMatcher) or matcher.kind != "blip":
        raise ValueError(f"{settings.matcher}: expected a BLIP image-text matcher, whose cross-attention AGLA reads")
    return [*_each_masked(matcher, batch, settings.block)]


def _each_masked(matcher: ImageTextMatcher, batch: Batch, block: int) -> Iterator[Image.Image | None]:
    for image, prompt in zip(batch.images, batch.prompts, strict=True):
        if image is None:
            yield None
            continue
        values, cosine = gradcam(matcher, image, prompt.split("\n")[0], block)
        yield blacked_out(image, values, min(1 - cosine / 2, MOST_KEPT))


def masked_by_attention(lvlm: Lvlm, batch: Batch, settings: AglaSelfSettings) -> list[Image.Image | None]:
    """Each row's picture without what the last position of the prompt attends to least.

    Raises:
        CannotDecode: a family that cannot say where in the picture its image tokens look.
    """
    rows = zip(batch.images, batch.prompts, strict=True)
    grids = [None if image is None else lvlm.image_grid(lvlm.encode([image], [prompt])) for image, prompt in rows]
    if any(image is not None and grid is None for image, grid in zip(batch.images, grids, strict=True)):
        raise CannotDecode("agla_self has to know where its image tokens look, which this family cannot say")
    attended = attention_on_image(lvlm, batch).mean(0).cpu()  # no layers are known to look right in every model
    masked: list[Image.Image | None] = []
    for image, grid, own, values in zip(batch.images, grids, batch.image_mask.cpu(), attended, strict=True):
        if grid is not None:
            image = blacked_out(image, values[own].view(grid.rows, grid.columns), settings.kept, grid.box)
        masked.append(image)
    return masked


def blacked_out(image: Image.Image, values: Tensor, share: float, box: Box = WHOLE) -> Image.Image:
    """The picture where a map over a box of it is high, and black elsewhere; what the box leaves out stays.

    Args:
        values: (row, column), of any scale.
        share: how much of the box's part of the picture is kept.
    """
    smooth, covered = over_picture(values.double().cpu().numpy(), box)
    kept = highest(smooth, covered, share) | ~covered
    mask = Image.fromarray(np.where(kept, 255, 0).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    return Image.composite(image, Image.new(image.mode, image.size), mask)


def over_picture(values: Values, box: Box) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A map (row, column) over a box, enlarged to SIDE x SIDE cells of the picture and blurred; the cells of the box.

    Differs: the code takes what lies beyond the map for 0, which darkens the picture's edges; ours goes on as its edge.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    centres = (np.arange(SIDE) + 0.5) / SIDE
    left, top, right, bottom = box
    down, along = (centres - top) / (bottom - top), (centres - left) / (right - left)  # from 0 to 1 in the box
    indices = np.meshgrid(down * values.shape[0] - 0.5, along * values.shape[1] - 0.5, indexing="ij")
    enlarged = map_coordinates(values, indices, order=3, mode="nearest")
    covered = ((down >= 0) & (down <= 1))[:, None] & ((along >= 0) & (along <= 1))
    # cells that are equal but for the last bits of fp64 are kept or lost together
    return gaussian_filter(enlarged, SPREAD).astype(np.float32), covered


def highest(values: NDArray[np.float32], counted: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """Which values are at least the one at index floor(n share) of the n `counted` ones, in descending order.

    A share of 1 keeps all of these.
    """
    ordered = np.sort(values[counted])[::-1]
    return values >= ordered[min(int(len(ordered) * share), len(ordered) - 1)]
