"""VHR, vision-aware head reinforcement: heads whose output changes most without the image count double."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from llava_hh.attention.call import AttentionCall
from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import OnHeads, ScaleHeads, check_factor
from llava_hh.attention.spans import Spans
from llava_hh.baselines.pai import with_image_free_twins
from llava_hh.baselines.stepping import Stepper, pad_id
from llava_hh.models.lvlm import Batch, Lvlm


@dataclass(frozen=True)
class ReinforceVisionHeads(OnHeads):
    """Multiply the outputs of heads that the image changes most by `alpha`, in the prompt and the answer.

    A pass over the prompt comes first, with a twin of each row that lacks the image positions. In each layer, with the
    heads of earlier layers reinforced already, a head's difference is how far its outputs at the last position of the
    prompt and of the twin are apart. It is 0 for a head that stands out twice, by more than a standard deviation above
    the layer's mean: by the difference, and by the squared length of the twin's output (the text alone drives it).
    Those above the layer's median are chosen, for this sample and all of its answer. Rows without an image have none.

    Args:
        heads: of each layer those to choose from.
        alpha: a factor of at least 0; 1 is greedy decoding.
    Raises:
        ValueError: no heads, or a factor that is not allowed.
    Source: He et al., "Cracking the Code of Hallucination in LVLMs with Vision-aware Head Divergence" (ACL 2025): alpha
        2, layer 1 and the last 14 of 32. Its code could not be had.
    Differs: the paper does not say which standard deviation it takes; ours divides by n - 1.
    """

    alpha: float = 2.0
    needs_image_keys: ClassVar[bool] = True
    passes_first: ClassVar[bool] = True
    order: ClassVar[float] = 2.6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factor("alpha", self.alpha)

    @torch.no_grad()
    def prepared(self, lvlm: Lvlm, batch: Batch) -> ScaleHeads:
        """The heads of each row, chosen by one pass over the prompts and their twins."""
        inputs, mask = with_image_free_twins(batch.inputs, batch.image_mask, pad_id(lvlm.model))
        choosing = _Choosing(self.heads, self.alpha)
        with intervene(lvlm.model, mask, [choosing]):
            Stepper(lvlm.model, inputs).step()
        by_head = torch.stack([choosing.factors[head] for head in self.heads], 1)  # row head
        return ScaleHeads(self.heads, tuple(map(tuple, by_head.tolist())))

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> None:
        raise TypeError("ReinforceVisionHeads acts through what `prepared` gives for a batch")


@dataclass(frozen=True)
class _Choosing(OnHeads):
    """Chooses heads in a pass over rows and their twins side by side, and reinforces them in both."""

    alpha: float
    factors: dict[tuple[int, int], Tensor] = field(default_factory=dict, compare=False)  # by head, (row,)
    acts_on_answers: ClassVar[bool] = True
    order: ClassVar[float] = 2.6

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> None:
        outputs = call.output[:, -1, heads].float()  # row head d_head
        chosen = vision_aware(outputs[::2], outputs[1::2]) & spans.image[::2].any(-1, keepdim=True)
        factors = torch.where(chosen, self.alpha, 1.0)
        by_head = zip(heads.tolist(), factors.cpu().unbind(1), strict=True)
        self.factors.update({(call.layer, head): factor for head, factor in by_head})
        call.output[:, :, heads] *= factors.repeat_interleave(2, 0)[:, None, :, None].to(call.output.dtype)


def vision_aware(shown: Tensor, blind: Tensor) -> Tensor:
    """Which heads the image changes more than the layer's median, (row, head) bool.

    Args:
        shown, blind: outputs of a layer's heads with the image and without, (row, head, d_head).
    """
    difference, alone = (shown - blind).norm(dim=-1), blind.square().sum(-1)
    stand_out = [each > each.mean(-1, keepdim=True) + each.std(-1, keepdim=True) for each in (difference, alone)]
    difference = difference.masked_fill(stand_out[0] & stand_out[1], 0)
    return difference > difference.median(-1, keepdim=True).values
