"""Attribution over a set of captions: their target words, ablations block by block, and what these add up to."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llava_hh.attribution.ablation import Ablated, ablate_every_head
from llava_hh.attribution.estimate import estimate_every_head
from llava_hh.attribution.outputs import add_sums, record_outputs, statistics_of, sums_of
from llava_hh.attribution.replacement import OutputStatistics, Replacement
from llava_hh.attribution.targets import Target, find_released_targets, find_targets
from llava_hh.blocks import Run
from llava_hh.comparison import refuse_stale, with_image_ids
from llava_hh.data.coco import existing_file
from llava_hh.data.images import image_path, load_image
from llava_hh.data.json_lists import read_rows, read_values
from llava_hh.files import read_json
from llava_hh.finite import refuse_infinite
from llava_hh.heads import Head
from llava_hh.identity import identify_checkpoint
from llava_hh.memory import fit_in_memory, in_parts, smallest_part
from llava_hh.models.lvlm import Batch, Lvlm, load_lvlm
from llava_hh.settings import FIRST_SO_MANY, IMAGES_BY_CONTENT, Settings

OUTPUTS_BLOCK = 64  # captions whose module outputs are summed up in one file
Found = tuple[list[Target], dict[str, Tensor], int | None]  # with the rows at once, where memory made them fewer
READ = ("image_id", "image", "prompt", "token_ids", "caption", "mentions")  # what attribution reads of an entry


def hallucinating_captions(path: Path, allow_none: bool = False) -> list[dict]:
    """What attribution reads of the entries of a result file with at least one hallucinated object, in order.

    Raises:
        ValueError: there is none and `allow_none` is not set, or the captions came without their token ids, or they
            were scored before they changed.
    """
    content = existing_file(path, "captions_eval_results.json of a run (--captions)")
    n_captions, chosen = None, []
    try:
        for _, number, entry in read_rows(content, keys=("sentences",)):
            n_captions = number
            if number and entry["metrics"]["CHAIRs"]:
                chosen.append({name: entry[name] for name in READ if name in entry})
        if n_captions is None:
            raise KeyError("sentences")
        about = read_values(content, ("overall_metrics", "run"))
    except (KeyError, TypeError) as error:
        expected = "expected the captions_eval_results.json of a run"
        raise ValueError(f"--captions {path}: its `sentences` lack {error}; {expected}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON as evaluate_chair writes it ({error})") from None
    refuse_stale(path, about.get("run"))
    if not chosen and not allow_none:
        raise ValueError(f"--captions {path}: no caption with a hallucinated object among {n_captions}")
    for entry in chosen:
        if missing := [name for name in READ if name not in entry]:
            raise ValueError(f"--captions {path}: its captions have no {missing[0]}; evaluate what caption.py writes")
        if problem := _why_unlike_ours(entry):
            raise ValueError(
                f"--captions {path}: image {entry['image_id']}: {problem}; evaluate what caption.py writes"
            )
    metrics = about.get("overall_metrics")
    variant = metrics.get("variant") if isinstance(metrics, dict) else None
    return with_image_ids(path, chosen, variant)


def _why_unlike_ours(entry: dict) -> str | None:
    ids, mentions = entry["token_ids"], entry["mentions"]
    if not isinstance(ids, list) or any(type(number) is not int or not 0 <= number < 2**31 for number in ids):
        return "token_ids are not a list of token ids"
    if not isinstance(entry["prompt"], str) or not isinstance(entry["caption"], str):
        return "prompt and caption are not both text"
    fields = {"word": str, "node": str, "start": int, "hallucinated": bool}
    if not isinstance(mentions, list) or not all(
        isinstance(mention, dict)
        and all(type(mention.get(name)) is kind for name, kind in fields.items())
        and 0 <= mention["start"] < len(entry["caption"])
        for mention in mentions
    ):
        return f"mentions do not all have {', '.join(fields)} of its caption"
    return None


def refuse_other_model(captions: Path, checkpoint: Path) -> None:
    """See that the run.json beside captions does not name another model than this one; an old one names none.

    Raises:
        ValueError: it does.
    """
    record = captions.with_name("run.json")
    settings = read_json(record).get("settings") if record.is_file() else None
    model = settings.get("model") if isinstance(settings, dict) else None
    if not isinstance(model, dict) or "sha256" not in model:
        return
    if model["sha256"] != identify_checkpoint(checkpoint)["sha256"]:
        raise ValueError(
            f"--captions {captions}: of another model ({model.get('name')}) than {checkpoint}, by the content of their "
            "files; caption with this model"
        )


def digest(entries: list[dict]) -> str:
    """A hash of the entries, without the rest of their file: its date may change."""
    found = hashlib.sha256()
    for piece in json.JSONEncoder().iterencode(entries):
        found.update(piece.encode())
    return found.hexdigest()


def join_arrays(parts: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Named arrays of several parts, all with the same names, joined along dimension 0."""
    parts = list(parts)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class CaptionedSettings(Settings):
    """What decides a measurement on captions, one after the other.

    Args:
        model: as `describe_loaded`; captions_sha256: of all captions that could be measured; limit: the first so many.
    """

    model: dict
    captions_sha256: str
    batch_size: int
    limit: int | None
    image_folder: str

    def free(self) -> dict[str, str]:
        return {"limit": FIRST_SO_MANY, "image_folder": IMAGES_BY_CONTENT}


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
    round: int | None = None
    heads: list | None = None

    def free(self) -> dict[str, str]:
        of_all = self.ablation != "zero" or self.screen is not None or self.race is not None
        return {"image_folder": IMAGES_BY_CONTENT} if of_all else super().free()


@dataclass(frozen=True)
class CaptionAttribution:
    """How captions are attributed: by which model, with which target rule, in how much memory."""

    model_path: Path
    image_folder: Path
    released: bool
    max_rows: int

    @cached_property
    def lvlm(self) -> Lvlm:
        return load_lvlm(self.model_path)

    def image_of(self, entry: dict) -> Path:
        return image_path(self.image_folder, entry["image"])

    def prepare(self, entry: dict) -> tuple[list[Target], list[int], Batch]:
        """Targets of one caption, the positions that predict them, and the teacher-forced sample."""
        if self.released:
            targets = find_released_targets(self.lvlm.tokenizer, entry["token_ids"], entry["mentions"])
        else:
            targets = find_targets(self.lvlm.tokenizer, entry["token_ids"], entry["caption"], entry["mentions"])
        image = load_image(self.image_of(entry))
        batch = self.lvlm.encode([image], [entry["prompt"]], [entry["token_ids"]])
        return targets, [batch.response_start[0] + target.index - 1 for target in targets], batch

    def measure(
        self, entry: dict, replacement: Replacement, heads: list[Head] | None = None
    ) -> tuple[list[Target], Ablated, int | None]:
        """Targets of one caption and their log-probabilities, clean and with each head and module replaced.

        Args:
            heads: these alone, and no modules.
        Returns: these, and how many rows at once memory had room for; None if max_rows.
        """
        targets, positions, batch = self.prepare(entry)

        def ablate(max_rows: int) -> Ablated:
            return ablate_every_head(
                self.lvlm.model,
                batch.inputs,
                positions,
                [target.token_id for target in targets],
                max_rows=max_rows,
                heads=heads,
                modules=heads is None,
                replacement=replacement,
                sample_id=entry["image_id"],
            )

        copies_of_a_layer = self.lvlm.n_heads + 2  # with its attention and its MLP
        ablated, rows = fit_in_memory(ablate, self.max_rows, min(self.max_rows, 1 + copies_of_a_layer))
        return targets, ablated, rows if rows < self.max_rows else None

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
        self,
        entries: list[dict],
        replacement: Replacement,
        run: Run,
        batch_size: int,
        heads: list[Head] | None = None,
    ) -> None:
        """Measure all captions; rows and arrays of every target stay in the run's blocks.

        Args:
            heads: as for `measure`.
        """

        def log_probs_of(entry: dict) -> Found:
            targets, ablated, rows = self.measure(entry, replacement, heads)
            names = ("clean", "heads", *(("mha", "mlp") if heads is None else ()))
            return targets, {name: getattr(ablated, name) for name in names}, rows

        self._keep_blocks(entries, run, batch_size, "attribution", log_probs_of)

    def estimate_blocks(self, entries: list[dict], run: Run, batch_size: int) -> None:
        """Estimate the effect of every head on all captions, as `run_blocks`: arrays `clean` and `drops`."""

        def estimates_of(entry: dict) -> Found:
            targets, positions, batch = self.prepare(entry)

            def estimate(part: Sequence[int]) -> tuple[Tensor, Tensor]:
                own, ids = [positions[place] for place in part], [targets[place].token_id for place in part]
                return estimate_every_head(self.lvlm.model, batch.inputs, own, ids)

            parts, size = in_parts(estimate, range(len(targets)))
            clean, drops = (torch.cat(own) for own in zip(*parts, strict=True))
            return targets, {"clean": clean, "drops": drops}, size

        self._keep_blocks(entries, run, batch_size, "estimates", estimates_of)

    def _keep_blocks(
        self,
        entries: list[dict],
        run: Run,
        batch_size: int,
        label: str,
        tensors_of: Callable[[dict], Found],
    ) -> None:
        """Keep targets and tensors (target, ...) of all captions, `clean` log-probabilities among them."""
        for number, block in run.blocks(entries, batch_size, label, self.image_of):
            rows, found, sizes, rows_of = [], [], [], []
            for entry in block:
                targets, tensors, size = tensors_of(entry)
                self._refuse_infinite(entry, tensors)
                sizes.append(size)
                rows_of.append(len(targets))
                rows += [{"image_id": entry["image_id"], **target.row()} for target in targets]
                found.append(tensors)
            arrays = join_arrays({name: tensor.numpy() for name, tensor in own.items()} for own in found)
            for row, log_prob in zip(rows, arrays["clean"].tolist(), strict=True):
                row["clean_log_prob"] = log_prob
            run.finish_block(number, block, rows, arrays, sub_batch=smallest_part(sizes), rows_of=rows_of)

    def _refuse_infinite(self, entry: dict, tensors: dict[str, Tensor]) -> None:
        """Stop at log-probabilities that are not finite; those of heads that are not measured are NaN."""
        if all(tensor.isfinite().all() for name, tensor in tensors.items() if name != "heads" or "mha" in tensors):
            return
        batch = self.prepare(entry)[2]
        run = (entry["image_id"], lambda: self.lvlm.model(**batch.inputs))
        refuse_infinite(self.lvlm.model, self.lvlm.decoder_layers, [run])
