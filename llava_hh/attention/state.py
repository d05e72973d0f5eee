"""The state of an open block of `intervene`, `record` or `observe`, and where it hangs."""

from collections.abc import Callable

import torch
from torch import Tensor

from llava_hh.attention.call import AttentionCall
from llava_hh.attention.interventions import Intervention
from llava_hh.attention.spans import AnswerRows, SpanFinder
from llava_hh.attention.trace import Trace

Observer = Callable[[int, Tensor, AttentionCall], None]
BLOCKS = "llava_hh_blocks"  # the attribute of an attention module that lists the open blocks, outer first


class Block:
    """The state of one open block: which heads, where the image is (where that is asked), and what was seen."""

    def __init__(self, spans: SpanFinder | None) -> None:
        self.spans, self.trace = spans, Trace()
        self.edits: dict[int, list[tuple[int, Intervention, list[int]]]] = {}  # by layer; edits are numbered
        self.mass: dict[int, list[int]] = {}
        self.maps: dict[int, list[int]] = {}
        self.observed: dict[int, list[int]] = {}
        self.observer: Observer | None = None
        self.called: set[int] = set()
        self._indices: dict[tuple[torch.device, tuple[int, ...]], Tensor] = {}
        self._answers: tuple[Tensor | None, tuple, AnswerRows] | None = None

    @property
    def layers(self) -> set[int]:
        return {*self.edits, *self.mass, *self.maps, *self.observed}

    def index(self, heads: list[int], device: torch.device) -> Tensor:
        """The heads as an index tensor that is copied to the device once, not once per layer and step."""
        key = (device, tuple(heads))
        if key not in self._indices:
            self._indices[key] = torch.tensor(heads, device=device)
        return self._indices[key]

    def answers(self, call: AttentionCall) -> AnswerRows:
        """The answer rows of a forward; its layers share a mask, so they are found once."""
        size = (call.query.device, len(call.query), call.query.shape[2], call.key.shape[2])
        if self._answers is None or self._answers[0] is not call.mask or self._answers[1] != size:
            rows = self.spans.find_answers(*size[1:], call.first_index, size[0])
            self._answers = call.mask, size, rows
        return self._answers[2]
