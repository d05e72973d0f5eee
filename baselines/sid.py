"""SID, self-introspective decoding: contrast with a twin that sees only the image tokens it finds least important."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from llava_hh.attention.call import AttentionCall
from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import OnHeads
from llava_hh.attention.modules import attention_modules
from llava_hh.attention.spans import Spans
from llava_hh.baselines.sampling import next_token
from llava_hh.baselines.settings import FLAG, SHARE, CheckedSettings, at_least, whole
from llava_hh.baselines.stepping import Stepper, TokenIds, decode_rows
from llava_hh.baselines.twins import contrast, refuse_cross_attention, scaled_count, with_twins
from llava_hh.decoding.method import NO_EDITS, Edits
from llava_hh.heads import Head
from llava_hh.models.lvlm import Batch, Lvlm


@dataclass(frozen=True)
class SidSettings(CheckedSettings):
    """Settings of SID.

    Args:
        alpha: weight of the contrast; 0 is greedy decoding.
        beta: tokens less likely than `beta` times the most likely one are out.
        n_kept: image tokens that the twin sees, of 576; of an image of others as large a share, rounded, at least one.
        layer: from this layer on; the attention of the one before chooses.
        cut_when_greedy: whether `beta` counts without a draw.
        do_sample, seed: draw the token, by the sample's id, instead of taking the best one.

    Raises:
        ValueError: a field that is not allowed.
    """

    alpha: Annotated[float, at_least(0)] = 0.5
    beta: Annotated[float, SHARE] = 0.1
    n_kept: Annotated[int, whole(1)] = 50
    layer: Annotated[int, whole(1)] = 2
    cut_when_greedy: Annotated[bool, FLAG] = True
    do_sample: Annotated[bool, FLAG] = False
    seed: Annotated[int, whole()] = 42


PRESETS = {
    "sid": SidSettings(),
    "sid_repo": SidSettings(cut_when_greedy=False),
    "sid_pope": SidSettings(n_kept=100),
}


def decode(lvlm: Lvlm, batch: Batch, settings: SidSettings, max_new_tokens: int, edits: Edits = NO_EDITS) -> TokenIds:
    """Decode by SID; a row and its twin go through the model in the same forward.

    Returns: the token ids of each row, without its end token.
    Raises:
        ValueError: a layer that the model does not have.
        CannotDecode: a model that reads its image by cross-attention.
    Source: Huo et al., "Self-Introspective Decoding: Alleviating Hallucinations for Large Vision-Language Models" (ICLR
        2025), and its code: 50 tokens for captions, 100 for POPE; its script never passes alpha, which is 0.5 then.
    Differs: the code lets the batch's first row choose, and takes no cut when it is greedy (`sid_repo`).
    """
    refuse_cross_attention(lvlm.model)
    modules = attention_modules(lvlm.model)
    if settings.layer >= len(modules):
        raise ValueError(
            f"SID hides image tokens from layer {settings.layer} on; the model has 0 to {len(modules) - 1}"
        )
    heads = tuple(Head(at, head) for at in range(settings.layer - 1, len(modules)) for head in range(lvlm.n_heads))
    mask, take = batch.image_mask.repeat_interleave(2, 0), next_token(batch, settings)
    beta = settings.beta if settings.do_sample or settings.cut_when_greedy else 0.0

    def choose(logits: Tensor) -> Tensor:
        return take(contrast(logits[::2], logits[1::2], settings.alpha, beta))

    is_clean = torch.arange(len(mask)) % 2 == 0
    hidden = intervene(lvlm.model, mask, [HideAttended(heads, settings.n_kept)], on_rows=~is_clean)
    with edits.open(lvlm.model, mask, is_clean), hidden:
        return decode_rows(Stepper(lvlm.model, with_twins(lvlm, batch)), choose, max_new_tokens, copies=2)


@dataclass(frozen=True)
class HideAttended(OnHeads):
    """Hide from every query row all image keys but those that the last row attends to least, anew in each forward.

    The first layer of `heads` chooses, by the mean attention over its heads, and the later ones hide. A row that would
    see nothing, since nothing stands before the image, keeps its own key.

    Args:
        heads: all of some layers that follow each other.
        n_kept: image keys that stay, of 576; of an image of others as large a share.
    Raises:
        ValueError: no heads.
    """

    n_kept: int
    needs_image_keys: ClassVar[bool] = True
    order: ClassVar[int] = 1

    def edit(self, call: AttentionCall, heads: Tensor, spans: Spans) -> None:
        image, last_row = spans.image, call.query.shape[2] - 1
        if call.layer == self.heads[0].layer:
            attended = call.pattern(heads, last_row)[:, :, 0].mean(1).masked_fill(~image, torch.inf)
            n_kept = scaled_count(self.n_kept, image.sum(1))
            rank = attended.argsort(dim=1, stable=True).argsort(dim=1)
            call.memory["hidden"] = image & (rank >= n_kept[:, None])
            return
        hidden = call.memory["hidden"].to(image.device)  # batch key
        own = torch.arange(hidden.shape[1], device=hidden.device) == call.columns[:, None]  # query key
        has_before = (call.seen_keys & ~image & ~spans.after_image).any(1)  # batch
        hides = hidden[:, None] & (~own | has_before[:, None, None])  # batch query key

        def hide(scores: Tensor, of_heads: Tensor, first_row: int) -> Tensor:
            return torch.zeros_like(scores).masked_fill(hides[:, None, first_row:], -torch.inf)

        call.score_edits.append(hide)
        call.attend_again(heads, hides.any(-1))
