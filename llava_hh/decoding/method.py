"""Methods: a name, settings, and answers to a batch.

Greedy decoding, interventions, fine-tuned checkpoints and decoders are all methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import Decisions, Intervention
from llava_hh.attention.modules import attribute_set, heads_on_image_alone
from llava_hh.attention.trace import Trace
from llava_hh.heads import Head
from llava_hh.models.lvlm import Batch, Lvlm
from llava_hh.runs.identity import has_config, identify

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BRANCHES = ("all", "clean")
PREPARING = "llava_hh_preparing"  # the attribute of a model while passes over a batch come before its answer


@dataclass(frozen=True)
class Answer:
    """Generated token ids without the end token; finish_reason is "stop" (end token) or "length"."""

    token_ids: list[int]
    finish_reason: str


class Answers(NamedTuple):
    """The answers of a batch, a row each; how often `DeactivateText` fired on which head; seconds, prefill included."""

    answers: list[Answer]
    fired: dict[Head, Decisions]
    seconds: float = 0.0


class CannotDecode(NotImplementedError):
    """The method does not work with this kind of model; a comparison leaves the method out and says why."""


@dataclass(frozen=True)
class Unavailable:
    """A method that could not be made; a comparison leaves it out and says why."""

    name: str
    label: str
    kind: str
    why: str
    checkpoint: Path | None = None

    def describe(self) -> dict[str, Any]:
        return {"interventions": [], "decoder": None}

    def answer(self, lvlm: Lvlm, batch: Batch, max_new_tokens: int) -> Answers:
        raise CannotDecode(self.why)


class Method(Protocol):
    """A way to answer. `llava_hh.decoding.making` makes methods from text.

    Attributes:
        name: of its result folder; label: in tables; kind: of the grammar.
        checkpoint: the folder of the model that it is for, None for that of the comparison.
    """

    name: str
    label: str
    kind: str
    checkpoint: Path | None

    def describe(self) -> dict[str, Any]:
        """JSON-ready settings, `interventions` and `decoder`: what a run of the method is held to."""

    def answer(self, lvlm: Lvlm, batch: Batch, max_new_tokens: int) -> Answers:
        """Answer the questions of a batch.

        Raises:
            CannotDecode: the method does not work with this kind of model; on the first token at the latest.
        """


@dataclass(frozen=True)
class Edits:
    """Interventions that a decoder applies to its forwards: to all its branches, or to the clean one alone.

    A decoder that runs a row in several branches opens them itself, because only it knows which branch is which.
    """

    interventions: tuple[Intervention, ...] = ()
    on: str = "all"
    is_of_batch: bool = False  # some were prepared for the rows of one batch
    traces: list[Trace] = field(default_factory=list)

    @classmethod
    def for_batch(cls, interventions: Sequence[Intervention], lvlm: Lvlm, batch: Batch, on: str = "all") -> Edits:
        """The interventions as they act on a batch; passes over it, where some need them, run here.

        Raises:
            CannotDecode: an intervention on image tokens, of a model that has none among its keys.
        """
        refuse_without_image_keys(lvlm.model, interventions)
        is_of_batch = any(edit.passes_first for edit in interventions)
        with attribute_set(lvlm.model, PREPARING, True):
            return cls(tuple(edit.prepared(lvlm, batch) for edit in interventions), on, is_of_batch)

    @contextmanager
    def open(
        self,
        model: PreTrainedModel,
        image_mask: Tensor,
        is_clean: Tensor | None = None,
        response_start: Sequence[int] | None = None,
    ) -> Iterator[None]:
        """Apply them to every forward while the block is open.

        Args:
            image_mask: of the rows that the forwards have, all branches among them.
            is_clean: (row,) bool, whether a row is of the clean branch; None: all are.
            response_start: the answer's first position in each row, where image_mask covers some of the answer.
        """
        if not self.interventions:
            yield
            return
        rows = is_clean if self.on == "clean" else None
        with intervene(model, image_mask, self.interventions, response_start, on_rows=rows) as trace:
            self.traces.append(trace)
            yield

    def fired(self, answers: Sequence[Answer]) -> dict[Head, Decisions]:
        """How often heads fired within the answers; empty unless `open` was called exactly once.

        A decoder that opens its edits anew for every piece of an answer decides more often than the answer has tokens.
        """
        lengths = [len(answer.token_ids) + (answer.finish_reason == "stop") for answer in answers]
        return self.traces[0].fired_within(lengths) if len(self.traces) == 1 else {}


NO_EDITS = Edits()


class Decoder(Protocol):
    """A way to decode a batch, such as `llava_hh.baselines.vcd.decode`.

    Args:
        settings: the decoder's frozen dataclass.
        edits: what it applies to its forwards; only decoders registered with `edits_itself` are given any.
    Returns: the token ids of each row, without the end token; a row of fewer than `max_new_tokens` ids reached its end,
        others were cut off. End tokens and suppressed ids are those of model.generation_config.
    Raises:
        CannotDecode: the decoder does not work with this kind of model; on the first token at the latest.
    """

    def __call__(self, lvlm: Lvlm, batch: Batch, settings: Any, max_new_tokens: int) -> list[list[int]]: ...


@dataclass(frozen=True)
class Greedy:
    """Greedy decoding, under interventions or of another checkpoint than the comparison's."""

    interventions: tuple[Intervention, ...] = ()
    name: str = "greedy"
    label: str = "greedy"
    kind: str = "greedy"
    checkpoint: Path | None = None

    def describe(self) -> dict[str, Any]:
        return {"interventions": described(self.interventions), "decoder": None}

    def answer(self, lvlm: Lvlm, batch: Batch, max_new_tokens: int) -> Answers:
        edits = Edits.for_batch(self.interventions, lvlm, batch)
        with edits.open(lvlm.model, batch.image_mask):
            answers = generate_greedily(lvlm, batch, max_new_tokens)
        return Answers(answers, edits.fired(answers))


@dataclass(frozen=True)
class Decoding:
    """A decoder with its settings (a frozen dataclass), with or without interventions.

    Args:
        edits_itself: whether `decode` takes `edits`; else the interventions act on all of its forwards, whose rows
            must be those of the batch, each once or several times in a row.
    """

    kind: str
    decode: Decoder
    settings: Any
    edits_itself: bool = False
    interventions: tuple[Intervention, ...] = ()
    on: str = "all"
    name: str = ""
    label: str = ""
    checkpoint: Path | None = None

    def describe(self) -> dict[str, Any]:
        """The name and every setting; checkpoints that the decoder uses by their content."""
        tools = getattr(self.settings, "tools", dict)()
        known = {name: identify(path) for name, path in tools.items() if path.is_file() or has_config(path)}
        decoder = {"name": self.kind, **asdict(self.settings), **known}
        if self.interventions:
            decoder["interventions_on"] = self.on
        return {"interventions": described(self.interventions), "decoder": decoder}

    def answer(self, lvlm: Lvlm, batch: Batch, max_new_tokens: int) -> Answers:
        edits = Edits.for_batch(self.interventions, lvlm, batch, self.on)
        if self.interventions and self.edits_itself:
            rows = self.decode(lvlm, batch, self.settings, max_new_tokens, edits=edits)
        else:
            with edits.open(lvlm.model, batch.image_mask):
                rows = self.decode(lvlm, batch, self.settings, max_new_tokens)
        answers = [Answer(ids, "stop" if len(ids) < max_new_tokens else "length") for ids in rows]
        return Answers(answers, edits.fired(answers))


def refuse_without_image_keys(model: PreTrainedModel, interventions: Sequence[Intervention]) -> None:
    """Check that a model has what interventions on image tokens need.

    Raises:
        CannotDecode: it has no image tokens among the keys.
    """
    if any(edit.needs_image_keys for edit in interventions) and heads_on_image_alone(model):
        raise CannotDecode("no image tokens among the keys: this model reads its image by cross-attention")


def described(interventions: Sequence[Intervention]) -> list[dict]:
    """Interventions, JSON-ready."""
    return [{"kind": type(intervention).__name__, **asdict(intervention)} for intervention in interventions]


@torch.no_grad()
def generate_greedily(
    lvlm: Lvlm, batch: Batch, max_new_tokens: int, interventions: Sequence[Intervention] = ()
) -> list[Answer]:
    """Decode a batch greedily; interventions act in prefill and in every cached step."""
    with intervene(lvlm.model, batch.image_mask, interventions) if interventions else nullcontext():
        sequences = lvlm.model.generate(**batch.inputs, max_new_tokens=max_new_tokens, do_sample=False)
    answers = []
    for ids in sequences[:, batch.inputs["input_ids"].shape[1] :].tolist():
        end = next((index for index, token in enumerate(ids) if token in lvlm.end_token_ids), None)
        answers.append(Answer(ids[:end], "length" if end is None else "stop"))
    return answers
