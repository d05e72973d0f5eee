"""Attribution over a set of captions: their target words, and ablations or estimates, block by block."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava_hh.attribution.ablation import Ablated, ablate_every_head
from llava_hh.attribution.captions import TeacherForced, join_arrays
from llava_hh.attribution.direct import has_direct_terms
from llava_hh.attribution.estimate import estimate_every_head
from llava_hh.attribution.labelled import number_of
from llava_hh.attribution.outputs import add_sums, record_outputs, statistics_of, sums_of
from llava_hh.attribution.replacement import OutputStatistics, Replacement
from llava_hh.attribution.sources import MEASURED_SOURCES
from llava_hh.attribution.summary import SHARE, WITHOUT
from llava_hh.attribution.targets import Target, tokens_of_words
from llava_hh.files.memory import fit_in_memory, in_parts, smallest_part
from llava_hh.files.nonfinite import refuse_infinite
from llava_hh.heads import Head
from llava_hh.runs.blocks import Run
from llava_hh.runs.settings import IMAGES_BY_CONTENT, CaptionedSettings

OUTPUTS_BLOCK = 64  # captions whose module outputs are summed up in one file
Measured = tuple[list[Target], dict[str, Tensor], int | None]  # with the rows at once, where memory made them fewer


@dataclass(frozen=True)
class OutputsSettings(CaptionedSettings):
    """What decides the mean outputs of heads and modules; they are of all captions, so the limit counts."""

    released: bool

    def free(self) -> dict[str, str]:
        return {"image_folder": IMAGES_BY_CONTENT}


@dataclass(frozen=True)
class AttributionSettings(CaptionedSettings):
    """What decides an attribution. Where statistics of all captions enter each block, the limit counts."""

    released: bool
    ablation: str
    noise_scale: float | None = None
    noise_seed: int | None = None
    screen: int | None = None
    race: int | None = None
    read_out: str | None = None
    match: str | None = None
    round: int | None = None
    heads: list | None = None
    sources: list | None = None
    renormalise: bool | None = None
    labels: list | None = None
    tokens: str | None = None
    direct: bool | None = None
    shapes_sha256: str | None = None  # of the objects' places, for AllPath's rankings

    def free(self) -> dict[str, str]:
        of_all = self.ablation != "zero" or not (self.screen is self.race is self.shapes_sha256 is None)
        return {"image_folder": IMAGES_BY_CONTENT} if of_all else super().free()


@dataclass(frozen=True)
class CaptionAttribution(TeacherForced):
    """How captions are attributed: by which model, with which target rule, in how much memory, in which blocks.

    direct: the direct effect of every head is measured as well, where the model has one (`has_direct_terms`).
    by_source, renormalise: what each head reads of MEASURED_SOURCES is taken away as well, as in `sources.Reading`.
    tokens: `first`, the first token of each word (paper); or `all`, where log-probabilities of its tokens are summed,
    clean and ablated, each under the ablation at the position that predicts it alone.
    """

    max_rows: int = 4096
    batch_size: int = 8
    by_source: bool = False
    renormalise: bool = False
    tokens: str = "first"
    direct: bool = False

    def measure(self, entry: dict, replacement: Replacement, heads: list[Head] | None = None) -> Measured:
        """Targets of one caption and their log-probabilities, clean and with each head and module replaced.

        Args:
            heads: these alone, and no modules.
        Returns: targets; the tensors of `Ablated` by name, those of a source each with its name behind it; and how
            many rows at once memory had room for, None if max_rows.
        """
        targets, positions, batch = self.prepare(entry)
        positions, ids, words = self._tokens(entry, targets, positions)
        more: dict[str, Any] = {"heads": heads, "modules": heads is None}
        more |= {"replacement": replacement, "sample_id": sample_id_of(entry)}
        sources = MEASURED_SOURCES if self.by_source else {}
        more |= {"sources": tuple(sources.values()), "renormalise": self.renormalise}
        more |= {"direct": self.direct and has_direct_terms(self.lvlm.model)}
        more |= {"image_mask": batch.image_mask[0], "answer_start": batch.response_start[0]}

        def ablate(max_rows: int) -> Ablated:
            return ablate_every_head(self.lvlm.model, batch.inputs, positions, ids, max_rows=max_rows, **more)

        copies_of_a_layer = self.lvlm.n_heads * (1 + len(sources)) + 2  # with its attention and its MLP
        ablated, rows = fit_in_memory(ablate, self.max_rows, min(self.max_rows, 1 + copies_of_a_layer))
        tensors = {name: tensor for name, tensor in vars(ablated).items() if tensor is not None}
        for kind in (WITHOUT, SHARE) if sources else ():
            parts = zip(sources, tensors.pop(kind), strict=True)
            tensors |= {f"{kind}_{name}": part for name, part in parts}
        tensors = {name: _of_words(tensor, words, name.startswith(SHARE)) for name, tensor in tensors.items()}
        return targets, tensors, rows if rows < self.max_rows else None

    def estimate(self, entry: dict) -> Measured:
        """Targets of one caption; `clean` log-probabilities and estimated `drops`; targets at once, None if all."""
        targets, positions, batch = self.prepare(entry)
        positions, ids, words = self._tokens(entry, targets, positions)

        def estimate(part: Sequence[int]) -> tuple[Tensor, Tensor]:
            chosen = [[values[index] for index in part] for values in (positions, ids)]
            return estimate_every_head(self.lvlm.model, batch.inputs, *chosen)

        parts, size = in_parts(estimate, range(len(ids)))
        clean, drops = (_of_words(torch.cat(tensors), words) for tensors in zip(*parts, strict=True))
        return targets, {"clean": clean, "drops": drops}, size

    def _tokens(
        self, entry: dict, targets: list[Target], positions: list[int]
    ) -> tuple[list[int], list[int], list[int] | None]:
        """The positions that predict tokens, these tokens, and to which target each belongs; None: one each."""
        if self.tokens == "first":
            return positions, [target.token_id for target in targets], None
        ids = self.ids_of(entry)
        spans = tokens_of_words(self.lvlm.tokenizer, ids, entry["caption"], entry["mentions"])
        before = [position - target.index for position, target in zip(positions, targets, strict=True)]
        words = [word for word, span in enumerate(spans) for _ in span]
        indices = [index for span in spans for index in span]
        return (
            [before[word] + index for word, index in zip(words, indices, strict=True)],
            [ids[i] for i in indices],
            words,
        )

    def gather_outputs(self, entries: list[dict], run: Run) -> OutputStatistics:
        """Mean and standard deviation of every head's and module's output at the positions that predict targets."""
        for number, block in run.blocks(entries, OUTPUTS_BLOCK, "module outputs", self.image_of):
            recorded = []
            for entry in block:
                _, positions, batch = self.prepare(entry)
                recorded.append(sums_of(record_outputs(self.lvlm.model, batch.inputs, positions)))
            run.finish_block(number, block, [], of_block=add_sums(recorded))
        return statistics_of(run.finished_arrays())

    def run_blocks(
        self, entries: list[dict], replacement: Replacement, run: Run, heads: list[Head] | None = None
    ) -> None:
        """Measure all captions; rows and arrays of every target stay in the run's blocks.

        Args:
            heads: these alone, and no modules.
        """
        self._keep_blocks(entries, run, "attribution", lambda entry: self.measure(entry, replacement, heads))

    def estimate_blocks(self, entries: list[dict], run: Run) -> None:
        """Estimate the effect of every head on all captions; arrays `clean` and `drops` stay in the run's blocks."""
        self._keep_blocks(entries, run, "estimates", self.estimate)

    def _keep_blocks(self, entries: list[dict], run: Run, label: str, measure: Callable[[dict], Measured]) -> None:
        """Keep targets and tensors (target, ...) of all captions, `clean` log-probabilities among them."""
        for number, block in run.blocks(entries, self.batch_size, label, self.image_of):
            rows, arrays, sizes, rows_of = [], [], [], []
            for entry in block:
                targets, tensors, size = measure(entry)
                self._refuse_infinite(entry, tensors)
                sizes.append(size)
                rows_of.append(len(targets))
                rows += [{"image_id": entry["image_id"], **target.row()} for target in targets]
                arrays.append({name: tensor.numpy() for name, tensor in tensors.items()})
            joined = join_arrays(arrays)
            for row, log_prob in zip(rows, joined["clean"].tolist(), strict=True):
                row["clean_log_prob"] = log_prob
            run.finish_block(number, block, rows, joined, sub_batch=smallest_part(sizes), rows_of=rows_of)

    def _refuse_infinite(self, entry: dict, tensors: dict[str, Tensor]) -> None:
        """Stop at log-probabilities that are not finite; those of heads that are not measured are NaN."""
        of_all = {name: tensor for name, tensor in tensors.items() if name == "clean" or "heads" not in tensors}
        if not all(tensor.isfinite().all() for tensor in (tensors if "mha" in tensors else of_all).values()):
            batch = self.batch(entry)
            run = (entry["image_id"], lambda: self.lvlm.model(**batch.inputs))
            refuse_infinite(self.lvlm.model, self.lvlm.decoder_layers, [run])


def sample_id_of(entry: dict) -> int:
    """What seeds the noise of an answer: its own number, or its image's id; an id that is text counts by its hash."""
    number = entry.get("sample_id", entry["image_id"])
    return number if isinstance(number, int) else number_of(number)


def _of_words(values: Tensor, words: list[int] | None, is_share: bool = False) -> Tensor:
    """Values of tokens, (token, ...), as those of words: log-probabilities added up, shares of attention averaged."""
    if words is None:
        return values
    owners = torch.tensor(words)
    added = torch.zeros(words[-1] + 1, *values.shape[1:]).index_add_(0, owners, values)
    return added / owners.bincount().view(-1, *[1] * (values.dim() - 1)) if is_share else added
