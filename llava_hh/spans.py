"""Where the image stands among a row's keys, and what comes after it: per row, padding and beams included."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class Spans(NamedTuple):
    """Sets of positions for every row of a forward pass, each (batch, key) bool."""

    image: Tensor
    after_image: Tensor
    predicting: Tensor | None = None  # positions whose logits predict an answer token: response_start - 1 and later
    first_predicting: int = 0  # the first of them in any row


class SpanFinder:
    """Finds the spans of a growing sequence from where the image stands in its prompt.

    The image span is the image positions of the prompt, of all its images. The after-image span is every key after
    the last of them: the rest of the prompt and all that was generated. A row without an image has both spans empty:
    where nothing is the image, nothing comes after it.

    Positions are columns of the padded batch, so left padding needs no shift. Padding to the right of an image counts
    as after it; attention gives it no weight.

    Args:
        image_mask: (batch, prompt position) bool, True where the position holds a feature of an image.
        response_start: each row's first position of the answer; without it `Spans.predicting` is None.

    Raises:
        ValueError: `image_mask` is not a two-dimensional bool tensor with at least one row, or `response_start` has
            another number of rows.

    Source: the paper's decoding (AD-HH) calls the after-image span the text.
    Differs: the released code takes constants (image from 35, 576 long) for all rows; ours come from each row.
    """

    def __init__(self, image_mask: Tensor, response_start: Sequence[int] | Tensor | None = None) -> None:
        if image_mask.dim() != 2 or image_mask.dtype != torch.bool or not len(image_mask):
            shape = tuple(image_mask.shape)
            raise ValueError(f"image_mask must be (batch, position) bool, not {shape} {image_mask.dtype}")
        if response_start is not None and len(response_start) != len(image_mask):
            raise ValueError(f"response_start has {len(response_start)} rows, image_mask has {len(image_mask)}")
        self._image = image_mask
        # plain numbers: layers ask for the earliest without waiting for the device
        self._starts = None if response_start is None else [int(start) for start in response_start]
        positions = torch.arange(image_mask.shape[1], device=image_mask.device)
        # one column beyond the prompt, always -1, so that a prompt of length 0 has a maximum as well
        self._last_image = pad(torch.where(image_mask, positions, -1), (0, 1), value=-1).amax(1)
        self._size = (0, 0)
        self._found: dict[torch.device, Spans] = {}

    def copies(self, batch: int) -> int:
        """How often each row of the prompt stands in a batch of `batch` rows: 1, or the number of beams.

        Raises:
            ValueError: `batch` is no multiple of the prompt's rows.
        """
        rows = len(self._image)
        if batch % rows:
            raise ValueError(f"the model runs {batch} rows, no multiple of the {rows} rows of image_mask")
        return batch // rows

    def find(self, batch: int, n_keys: int, device: torch.device | str) -> Spans:
        """The spans of `batch` rows over their first `n_keys` keys.

        The layers of one step ask for the same size, so the last size is kept (once per device).

        Args:
            batch: a multiple of the prompt's rows; the copies of a row stand together, as beams do.

        Raises:
            ValueError: `batch` is no multiple of the prompt's rows.
        """
        device = torch.device(device)
        if self._size != (batch, n_keys):
            self._size, self._found = (batch, n_keys), {}
        if device not in self._found:
            copies = self.copies(batch)
            image = pad(self._image, (0, max(0, n_keys - self._image.shape[1])))[:, :n_keys]
            last = self._last_image[:, None]
            after_image = (torch.arange(n_keys, device=last.device) > last) & (last >= 0)
            found = [image, after_image]
            if self._starts is not None:
                starts = torch.tensor(self._starts, device=last.device)[:, None]
                found.append(torch.arange(n_keys, device=last.device) >= starts - 1)
            first = 0 if self._starts is None else max(0, min(self._starts) - 1)
            rows = [span.repeat_interleave(copies, 0).to(device) for span in found]
            self._found[device] = Spans(rows[0], rows[1], rows[2] if len(rows) > 2 else None, first)
        return self._found[device]


def image_only_spans(batch: int, n_keys: int, device: torch.device | str) -> Spans:
    """The spans of a cross-attention layer, whose keys are the image: all of them image, none after it."""
    image = torch.ones(batch, n_keys, dtype=torch.bool, device=device)
    return Spans(image, ~image, ~image)
