"""What an open block saw: attention that was recorded, and decisions, counted once for each token of the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from llava_hh.attention.interventions import Decisions
from llava_hh.attention.spans import SpanFinder
from llava_hh.heads import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS_AHEAD = 64  # answer rows that decisions get room for at once


class Trace:
    """What an open block saw. Layers are keys; a list has one entry per forward, in order.

    Attributes:
        mass: (batch, head, query, 2) fp32, attention mass on the image and on the keys after it, fractions.
        maps: (batch, head, query, key) fp32, attention after softmax.
            Both hold the asked heads of the layer in ascending order, and stay on the layer's device.
    """

    def __init__(self) -> None:
        self.mass: dict[int, list[Tensor]] = {}
        self.maps: dict[int, list[Tensor]] = {}
        # by edit, layer, heads and batch size: fired (batch, head, answer row) and decided (batch, answer row)
        self._decisions: dict[tuple[int, int, tuple[int, ...], int], Decisions] = {}
        self._finished: dict[Head, Decisions] = {}  # of answers that `generate` has returned
        self._last: dict[tuple[int, int, tuple[int, ...], int], Decisions] = {}  # those of the last of these
        self._is_counting = True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep no decisions while the context is open: those of an assistant are proposals."""
        self._is_counting = False
        try:
            yield
        finally:
            self._is_counting = True

    def keep(self, edit: int, layer: int, heads: Sequence[int], new: Decisions, index: Tensor, room: int) -> None:
        """Keep one forward's decisions by answer row; those of a row that is computed again take the place of the old.

        They stay on the device until `fired` is read.

        Args:
            edit: which of the block's edits decided.
            index: (query,) the answer row of each decision; below 0 is none.
            room: no answer row is this one or later.
        """
        if not self._is_counting:
            return
        key = (edit, layer, tuple(heads), len(new.decided))
        kept = self._decisions.get(key) or Decisions(new.fired[..., :0], new.decided[..., :0])
        if missing := max(0, room - kept.decided.shape[-1]):
            missing += ROWS_AHEAD
            kept = self._decisions[key] = Decisions(*(pad(each, (0, missing)) for each in kept))
        for each, decided in zip(kept, new, strict=True):
            each.index_copy_(-1, index.clamp(min=0), decided)

    def finish(self, n_rows: int) -> None:
        """Count the decisions of an answer that is whole; the next one has rows of its own.

        Args:
            n_rows: of the answer; rows behind it were of tokens that were proposed but not taken.
        """
        for kept in self._decisions.values():
            for each in kept:
                each[..., n_rows:] = False
        self._finished, self._last = self.fired, dict(self._decisions)
        self._decisions.clear()

    @property
    def fired(self) -> dict[Head, Decisions]:
        """How often `DeactivateText` fired on each of its heads, and how many decisions it took there.

        A decision is one answer row of one batch row with a key after the image, counted once, however often generation
        computes it. Each call of `generate` makes answers of its own; forwards by hand make one. Rows that generation
        only carries along (finished, or padding) decide too. So do beams that are dropped later, unless there is no
        cache. Where two `DeactivateText` name a head, their counts add up.
        """
        counts = dict(self._finished)
        for (_, layer, heads, _), (fired, decided) in self._decisions.items():
            _count(counts, layer, heads, fired, decided)
        return dict(sorted(counts.items()))

    def fired_within(self, lengths: Sequence[int]) -> dict[Head, Decisions]:
        """`fired` of the last answer alone, without what rows decide after their own end.

        Args:
            lengths: how many tokens each row was given, its end token among them; the copies of a row, such as those
                of a decoder's branches, stand together and have its length.
        """
        counts: dict[Head, Decisions] = {}
        for (_, layer, heads, _), (fired, decided) in (self._decisions or self._last).items():
            ends = torch.tensor(lengths, device=decided.device).repeat_interleave(len(decided) // len(lengths))
            within = torch.arange(decided.shape[-1], device=decided.device) < ends[:, None]
            _count(counts, layer, heads, fired & within[:, None], decided & within)
        return dict(sorted(counts.items()))


def _count(counts: dict[Head, Decisions], layer: int, heads: Sequence[int], fired: Tensor, decided: Tensor) -> None:
    for head, n_fired in zip(heads, fired.sum((0, 2)).tolist(), strict=True):
        before = counts.get(Head(layer, head), Decisions(0, 0))
        counts[Head(layer, head)] = Decisions(before.fired + n_fired, before.decided + int(decided.sum()))


@contextmanager
def watch_generate(model: PreTrainedModel, spans: SpanFinder, trace: Trace) -> Iterator[None]:
    """While the context is open, `model.generate` refuses a prompt that is not the one of `spans`.

    The question of a second turn would pass for the answer. A call inside a call, such as that of a model which is its
    own assistant, goes on from the prompt, so it is let through. What it decides on is not counted; nor are tokens
    that were proposed behind the answer's end.
    """
    from transformers import GenerationMixin

    part = next((part for part in model.modules() if isinstance(part, GenerationMixin)), None)
    if part is None:
        yield
        return
    before, generate, is_inside = part.__dict__.get("generate"), part.generate, False

    @wraps(generate)
    def watched(inputs: Tensor | None = None, *args: Any, **settings: Any) -> Any:
        nonlocal is_inside
        if is_inside:
            with trace.paused():
                return generate(inputs, *args, **settings)
        ids = settings.get("input_ids") if inputs is None else inputs
        # a kept cache may be given with new ids alone; its attention mask is of the whole prompt all the same
        known = (settings.get("attention_mask"), ids, settings.get("inputs_embeds"))
        length = next((each.shape[1] for each in known if each is not None), spans.width)
        if length != spans.width:
            raise ValueError(
                f"the prompt has {length} positions, image_mask {spans.width}: each call of generate needs a block "
                "that was opened with the image_mask of its whole prompt"
            )
        is_inside = True
        try:
            output = generate(inputs, *args, **settings)
        except BaseException:
            trace.finish(0)
            raise
        finally:
            is_inside = False
        sequences = output if isinstance(output, Tensor) else output.sequences
        n_new = sequences.shape[1] - (0 if ids is None else ids.shape[1])
        trace.finish(spans.width + n_new - 1 - spans.first_predicting)
        return output

    part.generate = watched
    try:
        yield
    finally:
        del part.generate
        if before is not None:
            part.generate = before
