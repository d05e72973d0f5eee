"""Attribution over a set of captions: their target words, ablations block by block, and what these add up to."""

import argparse
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from llava_hh.attribution.ablation import Ablated, ablate_every_head
from llava_hh.attribution.contrast import contrastive_influence, influence, rank_heads
from llava_hh.attribution.outputs import add_sums, record_outputs, statistics_of, sums_of
from llava_hh.attribution.replacement import OutputStatistics, Replacement
from llava_hh.attribution.stability import bootstrap_interval, half_overlap
from llava_hh.attribution.targets import Target, find_released_targets, find_targets
from llava_hh.generation import load_image
from llava_hh.models.lvlm import Batch, Lvlm, load_lvlm
from llava_hh.runs import Run, read_json

OUTPUTS_BLOCK = 64  # captions whose module outputs are summed up in one file
OVERLAP_AT = (1, 2, 5, 10, 20, 30)
READ = ("image_id", "image", "prompt", "token_ids", "caption", "mentions")  # what attribution reads of an entry


def add_caption_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say which model's captions of which images are looked at."""
    add = parser.add_argument
    add("--model", type=Path, required=True, help="checkpoint folder")
    add("--captions", type=Path, required=True, help="captions_eval_results.json of this model's greedy captions")
    add("--image-folder", type=Path, required=True, help="folder of the images")
    add("--out", type=Path, required=True, help="result folder")


def hallucinating_captions(path: Path) -> list[dict]:
    """What attribution reads of the entries of a result file with at least one hallucinated object, in order.

    Raises:
        ValueError: there is none, or the captions came without their token ids.
    """
    content = read_json(path)
    try:
        chosen = [entry for entry in content["sentences"] if entry["metrics"]["CHAIRs"]]
    except (KeyError, TypeError) as error:
        expected = "expected the captions_eval_results.json of a run"
        raise ValueError(f"--captions {path}: its `sentences` lack {error}; {expected}") from None
    if not chosen:
        raise ValueError(f"--captions {path}: no caption with a hallucinated object among {len(content['sentences'])}")
    if missing := [name for name in READ if name not in chosen[0]]:
        raise ValueError(f"--captions {path}: its captions have no {missing[0]}; evaluate what caption.py writes")
    return [{name: entry[name] for name in READ} for entry in chosen]


def digest(entries: list[dict]) -> str:
    """A hash of the entries, without the rest of their file: its date may change."""
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


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

    def prepare(self, entry: dict) -> tuple[list[Target], list[int], Batch]:
        """Targets of one caption, the positions that predict them, and the teacher-forced sample."""
        if self.released:
            targets = find_released_targets(self.lvlm.tokenizer, entry["token_ids"], entry["mentions"])
        else:
            targets = find_targets(self.lvlm.tokenizer, entry["token_ids"], entry["caption"], entry["mentions"])
        image = load_image(self.image_folder / entry["image"])
        batch = self.lvlm.encode([image], [entry["prompt"]], [entry["token_ids"]])
        return targets, [batch.response_start[0] + target.index - 1 for target in targets], batch

    def measure(self, entry: dict, replacement: Replacement) -> tuple[list[Target], Ablated]:
        """Targets of one caption and their log-probabilities, clean and with each head and module replaced."""
        targets, positions, batch = self.prepare(entry)
        return targets, ablate_every_head(
            self.lvlm.model,
            batch.inputs,
            positions,
            [target.token_id for target in targets],
            max_rows=self.max_rows,
            modules=True,
            replacement=replacement,
            sample_id=entry["image_id"],
        )

    def gather_outputs(self, entries: list[dict], run: Run) -> OutputStatistics:
        """Mean and standard deviation of every head's and module's output at the positions that predict targets."""
        for number, block in run.blocks(entries, OUTPUTS_BLOCK, "module outputs"):
            recorded = []
            for entry in block:
                _, positions, batch = self.prepare(entry)
                recorded.append(sums_of(record_outputs(self.lvlm.model, batch.inputs, positions)))
            run.finish_block(number, block, [], add_sums(recorded))
        return statistics_of(run.finished_arrays())

    def run_blocks(self, entries: list[dict], replacement: Replacement, run: Run, batch_size: int) -> None:
        """Measure all captions; rows and arrays of every target stay in the run's blocks."""
        for number, block in run.blocks(entries, batch_size, "attribution"):
            rows, found = [], []
            for entry in block:
                targets, ablated = self.measure(entry, replacement)
                rows += [{"image_id": entry["image_id"], **target.row()} for target in targets]
                found.append(ablated)
            arrays = {
                name: np.concatenate([getattr(each, name).numpy() for each in found])
                for name in ("clean", "heads", "mha", "mlp")
            }
            for row, log_prob in zip(rows, arrays["clean"].tolist(), strict=True):
                row["clean_log_prob"] = log_prob
            run.finish_block(number, block, rows, arrays)


def summarise(rows: list[dict], log_probs: dict[str, np.ndarray], read_out: str, list_length: int) -> dict:
    """Head lists, scores with intervals and stability of measured targets, JSON-ready.

    Args:
        rows: of each target, its `image_id` and whether it is `hallucinated`.
        log_probs: `clean` (target,), `heads` (target, layer, head), `mha` and `mlp` (target, layer).
    Raises:
        ValueError: no hallucinated or no true word.
    """
    hallucinated = np.array([row["hallucinated"] for row in rows], dtype=bool)
    image_ids = np.array([row["image_id"] for row in rows])

    def scores(kind: str) -> tuple[np.ndarray, np.ndarray, dict]:
        influences = influence(log_probs["clean"], log_probs[kind], read_out)
        contrast = contrastive_influence(influences, hallucinated)
        low, high = bootstrap_interval(influences, hallucinated, image_ids)
        return (
            influences,
            contrast,
            {
                "contrastive_influence": contrast.tolist(),
                "interval": {"low": low.tolist(), "high": high.tolist()},
                "influence_hallucinated": influences[hallucinated].mean(0, dtype=np.float64).tolist(),
                "influence_non_hallucinated": influences[~hallucinated].mean(0, dtype=np.float64).tolist(),
            },
        )

    influences, contrast, of_heads = scores("heads")
    best, worst = rank_heads(contrast, list_length)
    ks = [k for k in OVERLAP_AT if k < contrast.size]
    return {
        "hal_heads": [list(head) for head in best],
        "non_hal_heads": [list(head) for head in worst],
        **of_heads,
        "stability": {"half_overlap": half_overlap(influences, hallucinated, image_ids, ks)},
        "modules": {kind: scores(kind)[2] for kind in ("mha", "mlp")},
        "read_out": read_out,
        "n_hallucinated_tokens": int(hallucinated.sum()),
        "n_non_hallucinated_tokens": int((~hallucinated).sum()),
        "n_captions": len(set(image_ids.tolist())),
    }
