"""What a head reads: the keys that a query sees, by the part of the context they belong to."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llava_hh.attention.spans import after_last_image

SOURCES = ("before", "image", "after", "answer", "self")
# what `attribute --by-source` takes away, by name: together they are all that a head reads
MEASURED_SOURCES = {"image": "image", "after": "after", "answer": "answer", "elsewhere": "before+self"}
EMPTIED = 1e-6  # attention left beside a source, below which nothing is scaled to 1


@dataclass(frozen=True)
class Reading:
    """Which sources each head loses in turn, in one sample.

    Every key that a query sees belongs to one source: `before` (text before the last image; all text of a prompt
    without one), `image` (all image positions), `after` (text after the last image), `answer` (the answer before the
    query), `self` (the query's own key, wherever it stands).

    Args:
        names: some of SOURCES, or several in one with a plus between them, such as after+answer.
        image_mask: (position,) bool, the sample's image positions.
        answer_start: the first position of the answer.
        renormalise: what is left of a head's attention is scaled to 1. Where less than EMPTIED is left, the head's
            output is 0.
        shares: filled by a sweep: by layer, the attention on each source, (source, target, head) float32.
    Raises:
        ValueError: a name of no source, or a name twice; a mask of another form.
    """

    names: tuple[str, ...]
    image_mask: Tensor
    answer_start: int
    renormalise: bool = False
    shares: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.names:
            if wrong := [part for part in name.split("+") if part not in SOURCES]:
                raise ValueError(f"no source {wrong[0]!r}; expected some of {', '.join(SOURCES)}")
        if len({frozenset(name.split("+")) for name in self.names}) < len(self.names):
            raise ValueError(f"a source is named twice: {', '.join(self.names)}")
        if self.image_mask.dim() != 1 or self.image_mask.dtype != torch.bool:
            shape = tuple(self.image_mask.shape)
            raise ValueError(f"image_mask must be (position,) bool, not {shape} {self.image_mask.dtype}")

    def keys(self, positions: Sequence[int], n_prefix: int, of_image_alone: bool) -> Tensor:
        """The keys of each source, (source, target, n_prefix + 1) bool; the last one is the query's own.

        Args:
            of_image_alone: in a layer of cross attention, whose keys are the image's, and which has no own key.
        """
        n_targets = len(positions)
        every = torch.zeros(len(SOURCES), n_targets, n_prefix + 1, dtype=torch.bool)
        if of_image_alone:
            every[SOURCES.index("image")] = True
        else:
            key, query = torch.arange(n_prefix), torch.as_tensor(positions)[:, None]
            image = torch.zeros(n_prefix, dtype=torch.bool)
            shown = self.image_mask[:n_prefix].cpu()
            image[: len(shown)] = shown
            after = after_last_image(self.image_mask[None].cpu(), n_prefix)[0]
            answer = key >= self.answer_start
            parts = (~image & ~after & ~answer, image & ~answer, after & ~image & ~answer, answer)
            for source, part in enumerate(parts):
                every[source, :, :n_prefix] = part & (key < query)
            every[-1, :, n_prefix] = True
        return torch.stack([every[[SOURCES.index(part) for part in name.split("+")]].any(0) for name in self.names])

    def without(self, layer: int, keys: Tensor, weights: Tensor, values: Tensor, own: Tensor | None) -> Tensor:
        """The heads' outputs without each source, (source, target, head, d_head).

        Args:
            keys: of `self.keys`.
            weights: attention of the targets' queries, (key_head, target, group, n_prefix(+1)) float32.
            values: (key_head, n_prefix, d_head); own: the queries' own, (key_head, target, 1, d_head), or None.
        """
        n_prefix = values.shape[1]
        outputs, shares = [], []
        for lost in keys[..., : weights.shape[-1]].to(weights.device):
            kept = weights.masked_fill(lost[None, :, None], 0)
            share = (weights - kept).sum(-1)
            shares.append(share.transpose(0, 1).flatten(1).cpu())
            if self.renormalise:
                left = kept.sum(-1, keepdim=True)
                kept = torch.where(left < EMPTIED, 0, kept / left.clamp_min(EMPTIED))
            kept = kept.to(values.dtype)
            z = torch.bmm(kept[..., :n_prefix].flatten(1, 2), values).unflatten(1, kept.shape[1:3])
            if own is not None:
                z = z + kept[..., n_prefix:] * own
            outputs.append(z.transpose(0, 1).flatten(1, 2))
        self.shares[layer] = torch.stack(shares)
        return torch.stack(outputs)
