"""An open block of `intervene`, `record` or `observe`: its state, what it recorded, and what it decided.

Decisions are counted once for each token of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from llava_hh.attention.call import AttentionCall
from llava_hh.attention.interventions import Decisions, Intervention
from llava_hh.attention.modules import attribute_set
from llava_hh.attention.spans import AnswerRows, SpanFinder
from llava_hh.heads import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS_AHEAD = 64  # answer rows that decisions get room for at once
Key = tuple[int, int, tuple[int, ...], int]  # edit, layer, heads, batch size
WATCHES = "llava_hh_watches"  # the attribute of a model that lists who looks at its calls of generate
BLOCKS = "llava_hh_blocks"  # the attribute of an attention module that lists the open blocks, outer first


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
        self._decisions: dict[Key, Decisions] = {}  # fired (batch, head, answer row) and decided (batch, answer row)
        self._finished: dict[Head, Decisions] = {}  # of answers that `generate` has returned
        self._last: dict[Key, Decisions] = {}  # those of the last of these
        self.is_counting = True  # decisions of an assistant are proposals, which do not count

    def keep(self, edit: int, layer: int, heads: Sequence[int], new: Decisions, index: Tensor, room: int) -> None:
        """Keep one forward's decisions by answer row; those of a row that is computed again replace the old ones.

        They stay on the device until `fired` is read.

        Args:
            edit: which of the block's edits decided.
            index: (query,) the answer row of each decision; a negative one is no answer row.
            room: all answer rows are below this one.
        """
        if not self.is_counting:
            return
        key = (edit, layer, tuple(heads), len(new.decided))
        kept = self._decisions.get(key) or Decisions(new.fired[..., :0], new.decided[..., :0])
        if missing := max(0, room - kept.decided.shape[-1]):
            missing += ROWS_AHEAD
            kept = self._decisions[key] = Decisions(*(pad(counts, (0, missing)) for counts in kept))
        for counts, of_forward in zip(kept, new, strict=True):
            counts.index_copy_(-1, index.clamp(min=0), of_forward)

    def finish(self, n_rows: int | None = None) -> None:
        """Count the decisions of a complete answer; the next one starts at row 0 again.

        Args:
            n_rows: of the answer; rows behind it were of tokens that were proposed but not taken. None: all were.
        """
        for kept in self._decisions.values():
            for counts in kept:
                if n_rows is not None:
                    counts[..., n_rows:] = False
        self._finished, self._last = self.fired, dict(self._decisions)
        self._decisions.clear()

    @property
    def fired(self) -> dict[Head, Decisions]:
        """How often `DeactivateText` fired on each of its heads, and how many decisions it took there.

        A decision is one answer row of one batch row with a key after the image, counted once, however often generation
        computes it. Each call of `generate` starts new answers; forwards by hand make one. Rows that generation
        only carries along (finished, or padding) decide too. So do beams that are dropped later, unless there is no
        cache. Where two `DeactivateText` name a head, their counts add up.
        """
        counts = _counted(self._decisions)
        add_decisions(counts, self._finished)
        return dict(sorted(counts.items()))

    def fired_within(self, lengths: Sequence[int]) -> dict[Head, Decisions]:
        """`fired` of the last answer alone, without what rows decide after their own end.

        Args:
            lengths: how many tokens each row was given, its end token among them; the copies of a row, such as those
                of a decoder's branches, stand together and have its length.
        """
        return dict(sorted(_counted(self._within(lengths)).items()))

    def fired_at(self, lengths: Sequence[int]) -> dict[Head, list[list[int]]]:
        """The answer tokens, from 0, at which `DeactivateText` fired in the last answer: by head, a list for each row.

        Args:
            lengths: as in `fired_within`.
        """
        tokens: dict[Head, list[set[int]]] = {}
        for (_, layer, heads, n_rows), (fired, _) in self._within(lengths).items():
            for head in heads:
                tokens.setdefault(Head(layer, head), [set() for _ in range(n_rows)])
            for row, column, token in fired.nonzero().tolist():
                tokens[Head(layer, heads[column])][row].add(token)
        return {head: [sorted(of_row) for of_row in rows] for head, rows in sorted(tokens.items())}

    def _within(self, lengths: Sequence[int]) -> dict[Key, Decisions]:
        """The decisions of the last answer, without what rows decide after their own end."""
        decisions = {}
        for key, (fired, decided) in (self._decisions or self._last).items():
            ends = torch.tensor(lengths, device=decided.device).repeat_interleave(len(decided) // len(lengths))
            within = torch.arange(decided.shape[-1], device=decided.device) < ends[:, None]
            decisions[key] = Decisions(fired & within[:, None], decided & within)
        return decisions


def _counted(decisions: Mapping[Key, Decisions]) -> dict[Head, Decisions]:
    counts: dict[Head, Decisions] = {}
    for (_, layer, heads, _), (fired, decided) in decisions.items():
        n_fired, n_decided = fired.sum((0, 2)).tolist(), int(decided.sum())
        by_head = zip(heads, n_fired, strict=True)
        add_decisions(counts, {Head(layer, head): Decisions(n, n_decided) for head, n in by_head})
    return counts


def add_decisions(counts: dict[Head, Decisions], more: Mapping[Head, Decisions]) -> None:
    """Add to counts of decisions by head, in place."""
    for head, (fired, decided) in more.items():
        before = counts.get(head, Decisions(0, 0))
        counts[head] = Decisions(before.fired + fired, before.decided + decided)


Observer = Callable[[int, Tensor, AttentionCall], None]


@dataclass
class Block:
    """The state of one open block: its heads by layer, the spans of its prompt, and what was seen."""

    spans: SpanFinder | None  # None in `observe`
    edits: dict[int, list[tuple[int, Intervention, list[int]]]] = field(default_factory=dict)  # edits are numbered
    mass: dict[int, list[int]] = field(default_factory=dict)
    maps: dict[int, list[int]] = field(default_factory=dict)
    observed: dict[int, list[int]] = field(default_factory=dict)
    observer: Observer | None = None
    trace: Trace = field(default_factory=Trace)
    called: set[int] = field(default_factory=set)
    memories: dict[int, dict] = field(default_factory=dict)  # by edit, what it keeps between layers and forwards
    hidden: dict[int, Tensor] = field(default_factory=dict)  # by layer, what enters it, where an edit reads it
    _indices: dict[tuple[torch.device, tuple[int, ...]], Tensor] = field(default_factory=dict)
    _answers: tuple[Tensor | None, tuple, AnswerRows] | None = None

    def index(self, heads: list[int], device: torch.device) -> Tensor:
        """The heads as an index tensor that is copied to the device once, not once per layer and step."""
        key = (device, tuple(heads))
        if key not in self._indices:
            self._indices[key] = torch.tensor(heads, device=device)
        return self._indices[key]

    def answers(self, call: AttentionCall) -> AnswerRows:
        """The answer rows of a forward, which are computed once for all layers that share its mask."""
        size = (call.query.device, len(call.query), call.query.shape[2], call.key.shape[2])
        if self._answers is None or self._answers[0] is not call.mask or self._answers[1] != size:
            self._answers = call.mask, size, self.spans.find_answers(*size[1:], call.first_index, size[0])
        return self._answers[2]


@dataclass(eq=False)
class _Watch:
    spans: SpanFinder
    trace: Trace
    text_too: bool

    def check(self, length: int | None, goes_on: bool, images: Tensor | None) -> None:
        """Refuse a prompt of another length, but a turn of text that goes on, or with images elsewhere than known."""
        why = "each call of generate needs a block that was opened with the image_mask of its whole prompt"
        width = self.spans.width
        if length not in (None, width) and (length < width or not goes_on or self.text_too):
            raise ValueError(f"the prompt has {length} positions, image_mask {width}: {why}")
        mask = self.spans.image
        if images is not None and images.shape == mask.shape and not images.equal(mask.to(images.device)):
            raise ValueError(f"image tokens stand elsewhere in the prompt than in image_mask: {why}")


class _Watches(list[_Watch]):
    """Those of one model, with the `generate` that calls them, and the model's own attribute of that name before."""

    generate: Callable
    before: dict[str, Callable]


@contextmanager
def watch_generate(model: PreTrainedModel, spans: SpanFinder, trace: Trace, text_too: bool) -> Iterator[None]:
    """While the context is open, `model.generate` refuses a prompt that is not the one of `spans`.

    Otherwise an image of a second turn would count as text, the text of a shorter prompt as an image, and, which
    `text_too` forbids, the question of a second turn as part of the answer. A call inside a call, such as that of a
    model which assists itself, goes on from the prompt, so it is allowed. Its decisions are not counted; nor are those
    on tokens that were proposed behind the answer's end.
    Contexts may be left in any order.
    """
    from transformers import GenerationMixin

    part = next((part for part in model.modules() if isinstance(part, GenerationMixin)), None)
    if part is None:
        yield
        return
    own, watch = part.__dict__, _Watch(spans, trace, text_too)
    watches: _Watches = own.setdefault(WATCHES, _Watches())
    if not watches:
        watches.before = {"generate": own["generate"]} if "generate" in own else {}
        own["generate"] = watches.generate = _watched(part.generate, watches)
    watches.append(watch)
    try:
        yield
    finally:
        watches.remove(watch)
        if not watches:
            del own[WATCHES]
            if own.get("generate") is watches.generate:  # nobody else's since
                del own["generate"]
                own.update(watches.before)


def _watched(generate: Callable, watches: list[_Watch]) -> Callable:
    is_inside = False

    @wraps(generate)
    def watched(inputs: Tensor | None = None, *args: Any, **settings: Any) -> Any:
        nonlocal is_inside
        if is_inside:
            with ExitStack() as stack:
                for watch in watches:
                    stack.enter_context(attribute_set(watch.trace, "is_counting", False))
                return generate(inputs, *args, **settings)
        ids = settings.get("input_ids") if inputs is None else inputs
        # a kept cache may be given with new ids alone; its attention mask is of the whole prompt all the same
        known = (settings.get("attention_mask"), ids, settings.get("inputs_embeds"))
        length = next((tensor.shape[1] for tensor in known if tensor is not None), None)
        given = {name for name, value in settings.items() if value is not None}
        with_image = "inputs_embeds" in given or any("pixel" in name for name in given)  # embeddings may be of one
        image_id = getattr(generate.__self__.config, "image_token_id", None)
        images = None if ids is None or image_id is None else ids == image_id
        for watch in watches:
            watch.check(length, "past_key_values" in given and not with_image, images)
            watch.trace.finish()  # forwards by hand before
        is_inside, n_new = True, None
        try:
            output = generate(inputs, *args, **settings)
            sequences = output if isinstance(output, Tensor) else output.sequences
            n_new = sequences.shape[1] - (0 if ids is None else ids.shape[1])
            return output
        finally:
            is_inside = False
            for watch in watches:
                spans = watch.spans
                watch.trace.finish(0 if n_new is None else spans.width + n_new - 1 - spans.first_predicting)

    return watched
