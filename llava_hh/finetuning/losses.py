"""The losses of TF-HH: cross entropy of the answers, and attention of chosen heads at the answers' positions."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from llava_hh.attention.call import AttentionCall
from llava_hh.attention.spans import after_last_image
from llava_hh.finetuning.settings import OBJECTIVES

IGNORED = -100  # the label of a position that is no part of an answer
TINY = 1e-8  # keeps a logarithm finite; the released code's value


class AttentionTerms(NamedTuple):
    """Of one layer, summed over its chosen heads and the answer rows: the loss, image mass and after-image mass."""

    loss: Tensor
    image_mass: Tensor
    after_image_mass: Tensor
    n_heads: int


class AttentionLoss:
    """Collects the attention loss of a forward pass, layer by layer; for `llava_hh.attention.hooks.observe`.

    As in the released code, the rows are those of the answer tokens, not of the positions that predict them. A row has
    the mass I on the image and T = 1 - I on all other keys (system prompt and BOS among them). It adds log(T + 1e-8)
    (`minimize_txt`), -log(I + 1e-8) (`maximize_img`), or I log I + T log T, the negated entropy (`maximize_entropy`).
    Samples without an image add nothing. The softmax is fp32, over the keys that the row sees, of the chosen heads from
    the batch's first answer row on.

    Source: the paper's targeted fine-tuning; the formulas are its released code's.
    Differs: the released code takes positions 35 to 610 for the image in every sample, text-only ones included, and
        normalises each batch; ours finds each row's image, and the normaliser is the caller's.
    """

    def __init__(self, objective: str = "minimize_txt") -> None:
        if objective not in OBJECTIVES:
            raise ValueError(f"objective {objective!r} is not known; expected one of: {', '.join(OBJECTIVES)}")
        self.objective = objective
        self.terms: dict[int, AttentionTerms] = {}

    def start(self, image_mask: Tensor, labels: Tensor) -> None:
        """Begin a forward pass; its masks stay until the next one, because gradient checkpointing recomputes it."""
        self.terms = {}
        self.image_mask = image_mask
        self.rows = answer_rows(image_mask, labels)
        self.first_row = _first_column(self.rows)
        self.after_image = after_last_image(image_mask, image_mask.shape[1])

    def __call__(self, layer: int, heads: Tensor, call: AttentionCall) -> None:
        # recomputation under gradient checkpointing has to do the same operations again, but counts once
        pattern = call.pattern(heads, self.first_row)  # batch head query key
        rows = self.rows[:, None, self.first_row :]  # batch 1 query
        image = pattern.masked_fill(~self.image_mask[:, None, None], 0).sum(-1)  # batch head query
        text = pattern.masked_fill(self.image_mask[:, None, None], 0).sum(-1)
        if self.objective == "minimize_txt":
            value = (text + TINY).log()
        elif self.objective == "maximize_img":
            value = -(image + TINY).log()
        else:
            value = image * (image + TINY).log() + text * (text + TINY).log()
        after_image = pattern.detach().masked_fill(~self.after_image[:, None, None], 0).sum(-1)
        sums = (values.masked_fill(~rows, 0).sum() for values in (value, image.detach(), after_image))
        self.terms.setdefault(layer, AttentionTerms(*sums, n_heads=len(heads)))

    def total(self, n_rows: Tensor | int) -> Tensor:
        """The loss: the mean over layers of the mean over heads and rows.

        Args:
            n_rows: answer rows of samples with an image, in the whole global batch; of 0, the loss is 0.
        """
        layers = [terms.loss / terms.n_heads for terms in self.terms.values()]
        return torch.stack(layers).mean() / _at_least_one(n_rows)

    def masses(self, n_rows: Tensor | int) -> tuple[Tensor, Tensor]:
        """Image and after-image mass (fractions), means over all chosen heads and rows."""
        _, image, after_image, n_heads = map(sum, zip(*self.terms.values(), strict=True))
        return image / n_heads / _at_least_one(n_rows), after_image / n_heads / _at_least_one(n_rows)


def answer_rows(image_mask: Tensor, labels: Tensor) -> Tensor:
    """The rows that the attention loss is about, (batch, position) bool: answer tokens of samples with an image."""
    return (labels != IGNORED) & image_mask.any(1, keepdim=True)


def answer_cross_entropy(logits: Tensor, labels: Tensor, n_tokens: Tensor | int) -> Tensor:
    """Cross entropy of the labelled tokens in nats, summed and divided by `n_tokens` of the global batch.

    Args:
        logits: (batch, position, vocabulary) of the last positions, as many as there are.
        labels: (batch, position) of the whole sequence, IGNORED where no answer stands.
    """
    targets = labels[:, labels.shape[1] - logits.shape[1] + 1 :].flatten()
    logits = logits[:, :-1].flatten(0, 1).float()
    return cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum") / _at_least_one(n_tokens)


def _first_column(marked: Tensor) -> int:
    """The first column of (row, column) bool with a True; the number of columns where there is none."""
    return int(marked.any(0).int().argmax()) if marked.any() else marked.shape[1]


def _at_least_one(n: Tensor | int) -> Tensor | int:
    return n.clamp(min=1) if isinstance(n, Tensor) else max(n, 1)


class TargetedModel(nn.Module):
    """A model with the losses of TF-HH: its forward takes a batch and gives them, each already divided by its count.

    Args:
        attention: has to observe the model (`llava_hh.attention.hooks.observe`) during the training.
    """

    def __init__(self, model: nn.Module, attention: AttentionLoss, ce_coeff: float, attention_coeff: float) -> None:
        super().__init__()
        self.model, self.attention = model, attention
        self.ce_coeff, self.attention_coeff = ce_coeff, attention_coeff

    def forward(
        self, inputs: dict[str, Tensor], image_mask: Tensor, labels: Tensor, counts: Tensor
    ) -> dict[str, Tensor]:
        """The loss and its parts: `ce` and `attention_loss` (nats), `image_mass` and `after_image_mass` (fractions).

        Args:
            counts: answer tokens, and those of them that stand in samples with an image, of the whole global batch.
        """
        n_tokens, n_rows = counts
        self.attention.start(image_mask, labels)
        first = _first_column(labels != IGNORED)
        shown = min(labels.shape[1], labels.shape[1] - first + 1)  # from the position that predicts the first answer on
        logits = self.model(**inputs, use_cache=False, logits_to_keep=shown).logits
        ce = answer_cross_entropy(logits, labels, n_tokens)
        attention_loss = self.attention.total(n_rows)
        masses = dict(zip(("image_mass", "after_image_mass"), self.attention.masses(n_rows), strict=True))
        loss = self.ce_coeff * ce + self.attention_coeff * attention_loss
        return {"loss": loss, "ce": ce.detach(), "attention_loss": attention_loss.detach(), **masses}
