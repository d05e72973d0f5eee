"""Which keys of a row are the image, which come after it, and which query rows predict the answer."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class AnswerRows(NamedTuple):
    """The query rows of one forward that predict answer tokens.

    first: no query row before this one does; a plain number, so that nobody waits for the device.
    index: (query,) the column of each query row in the padded sequence.
    predict: (batch, query) bool.
    last: (batch,) the column of the prompt's last position, which predicts the first answer token.
    """

    first: int
    index: Tensor
    predict: Tensor
    last: Tensor


class Spans(NamedTuple):
    """Sets of positions for every row of a forward pass, each (batch, key) bool; and its answer rows, where needed.

    rows: (batch,) bool, where edits are of some rows alone. Other rows have empty sets and no answer rows.
    """

    image: Tensor
    after_image: Tensor
    answers: AnswerRows | None = None
    rows: Tensor | None = None

    def on(self, rows: Tensor | None) -> "Spans":
        """These spans on some of the rows, (batch,) bool; None is all."""
        if rows is None:
            return self
        return self._replace(image=self.image & rows[:, None], after_image=self.after_image & rows[:, None], rows=rows)


def after_last_image(image_mask: Tensor, n_keys: int) -> Tensor:
    """The keys after the last image position of each row, (row, key) bool; a row without an image has none."""
    positions = torch.arange(image_mask.shape[1], device=image_mask.device)
    # one column beyond the prompt, always -1, so that a prompt of length 0 has a maximum as well
    last = pad(torch.where(image_mask, positions, -1), (0, 1), value=-1).amax(1, keepdim=True)
    return (torch.arange(n_keys, device=last.device) > last) & (last >= 0)


class SpanFinder:
    """Finds the spans of a growing sequence from the image positions of its prompt.

    The image span is the image positions of the prompt, of all its images. The after-image span is every key after
    the last of them: the rest of the prompt and all that was generated. In a row without an image both spans are empty.

    Positions are columns of the padded batch, so left padding needs no shift. Padding to the right of an image counts
    as after it; attention gives it no weight.

    Args:
        image_mask: (batch, prompt position) bool, True where the position holds a feature of an image.
        response_start: each row's first position of the answer, where image_mask covers some of the answer; without it
            the answer begins behind image_mask.
        on_rows: whether each row is edited; the spans of other rows are empty. None is all.
    Raises:
        ValueError: `image_mask` is not a two-dimensional bool tensor with at least one row, or `response_start` or
            `on_rows` has another number of rows.
    Source: the paper's decoding (AD-HH) calls the after-image span the text.
    Differs: the released code takes constants (image from 35, 576 long) for all rows; ours come from each row.
    """

    def __init__(
        self,
        image_mask: Tensor,
        response_start: Sequence[int] | Tensor | None = None,
        on_rows: Sequence[bool] | Tensor | None = None,
    ) -> None:
        if image_mask.dim() != 2 or image_mask.dtype != torch.bool or not len(image_mask):
            shape = tuple(image_mask.shape)
            raise ValueError(f"image_mask must be (batch, position) bool, not {shape} {image_mask.dtype}")
        for name, value in (("response_start", response_start), ("on_rows", on_rows)):
            if value is not None and len(value) != len(image_mask):
                raise ValueError(f"{name} has {len(value)} rows, image_mask has {len(image_mask)}")
        self.on_rows = None if on_rows is None else torch.as_tensor(on_rows, device=image_mask.device)
        if on_rows is not None and (self.on_rows.dim() != 1 or self.on_rows.dtype != torch.bool):
            raise ValueError(f"on_rows must be true or false for each row, not {on_rows}")
        self.image, self.width = image_mask, image_mask.shape[1]
        starts = [self.width] * len(image_mask) if response_start is None else map(int, response_start)
        self._predicting = torch.tensor([start - 1 for start in starts], device=image_mask.device)
        self.first_predicting = max(0, int(self._predicting.min()))  # in any row
        self._last: dict[torch.device, tuple[tuple[int, int], Spans]] = {}  # with their size

    def copies(self, batch: int) -> int:
        """How many copies of each row of the prompt a batch of `batch` rows has: 1, or the number of beams.

        Raises:
            ValueError: `batch` is no multiple of the prompt's rows.
        """
        rows = len(self.image)
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
        size, spans = self._last.get(device, (None, None))
        if size != (batch, n_keys):
            image = pad(self.image, (0, max(0, n_keys - self.width)))[:, :n_keys]
            of_prompt = (image, after_last_image(self.image, n_keys))
            spans = Spans(*(span.repeat_interleave(self.copies(batch), 0).to(device) for span in of_prompt))
            spans = spans.on(self.rows(batch, device))
            self._last[device] = (batch, n_keys), spans
        return spans

    def rows(self, batch: int, device: torch.device | str) -> Tensor | None:
        """Which of `batch` rows are edited, (batch,) bool; None is all.

        Raises:
            ValueError: `batch` is no multiple of the prompt's rows.
        """
        return None if self.on_rows is None else self.on_rows.repeat_interleave(self.copies(batch)).to(device)

    def find_answers(
        self, batch: int, n_queries: int, n_keys: int, first_index: int | Tensor, device: torch.device
    ) -> AnswerRows:
        """Which query rows of a forward predict answer tokens: those from the last position of the prompt on.

        Only the position of a row decides. So every way to run a model edits the same rows: cached steps, whole passes
        without a cache, chunks, several proposed tokens at once.

        Args:
            first_index: the column of the first query row in the padded sequence.
        Raises:
            ValueError: `batch` is no multiple of the prompt's rows.
        """
        if n_queries == 1:  # most forwards: where a tensor tells the index, it is not waited for
            first = int(n_keys <= self.first_predicting)
        else:
            first = min(max(0, self.first_predicting - int(first_index)), n_queries)
        index = torch.arange(n_queries, device=device) + first_index
        predicting = self._predicting.repeat_interleave(self.copies(batch)).to(device)
        predict, rows = index >= predicting[:, None], self.rows(batch, device)
        return AnswerRows(first, index, predict if rows is None else predict & rows[:, None], predicting)


def image_only_spans(batch: int, n_keys: int, device: torch.device | str) -> Spans:
    """The spans of a cross-attention layer, whose keys are the image: all of them image, none after it."""
    image = torch.ones(batch, n_keys, dtype=torch.bool, device=device)
    return Spans(image, ~image)
