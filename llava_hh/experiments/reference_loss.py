"""The task of reference loss: the language-model loss of reference captions under every method.

The captions are teacher-forced as answers to the prompt, so decoders have none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from llava_hh.attention.interventions import Intervention
from llava_hh.decoding.making import Member
from llava_hh.decoding.method import CannotDecode, Greedy, Method, refuse_without_image_keys
from llava_hh.experiments.captioning import CaptionSettings, Evaluation
from llava_hh.experiments.compared import Compared
from llava_hh.experiments.measures.reference_loss import answer_losses, reference_tokens, summarise_losses
from llava_hh.files.files import read_json, sha256
from llava_hh.files.images import load_image
from llava_hh.files.memory import in_parts, smallest_part
from llava_hh.metrics.statistics import summarise
from llava_hh.runs.run import provenance, start_run

CAPTION_METRICS = ("length", "mentions", "distinct", "repeated", "recall", "CHAIRi")  # of a method's own captions


@dataclass(frozen=True)
class LossTask:
    """Losses of the first so many reference captions of every image.

    Args:
        captions: the result of `caption_metrics` on the captions of a method, by its name.
    """

    captions_per_image: int
    captions: Mapping[str, dict]

    def _evaluation(self, evaluation: Evaluation) -> Evaluation:
        task = {"captions_per_image": self.captions_per_image, "annotations_sha256": evaluation.truth}
        return replace(evaluation, task=task)

    def settings(self, evaluation: Evaluation, method: Method) -> dict[str, CaptionSettings]:
        return {"": self._evaluation(evaluation).settings(method)} if isinstance(method, Greedy) else {}

    def refuse_unknown(self, members: Sequence[Member]) -> None:
        """Check that `captions` are of methods that have a loss.

        Raises:
            ValueError: a name that is neither the kind nor the folder of such a method.
        """
        known = self._names(members)
        if unknown := self.captions.keys() - known.keys():
            raise ValueError(f"--captions {min(unknown)}=...: METHOD must be one of: {', '.join(known)}")

    @staticmethod
    def _names(members: Sequence[Member]) -> dict[str, str]:
        """The folders of methods that have a loss, by what --captions may call them: folder, or a kind of one alone."""
        methods = [member.method for member in members if isinstance(member.method, Greedy)]
        kinds = [member.method.kind for member in members if member.has_row]
        alone = {method.kind: method.name for method in methods if kinds.count(method.kind) == 1}
        return alone | {method.name: method.name for method in methods}

    def try_out(self, evaluation: Evaluation, method: Method) -> None:
        if not isinstance(method, Greedy):
            raise CannotDecode(f"{method.kind} gives no loss of captions: it is no intervention under greedy decoding")
        refuse_without_image_keys(evaluation.lvlm.model, method.interventions)
        if any(edit.passes_first for edit in method.interventions):
            raise CannotDecode(f"{method.kind} gives no loss of captions: it begins with passes over the prompt")

    def run(self, evaluation: Evaluation, method: Greedy, out: Path) -> list[dict]:
        """The loss of the first reference captions of every image; a row per caption."""
        seen = self._evaluation(evaluation)
        references = {sample["image_id"]: seen.references[sample["image_id"]] for sample in seen.samples}

        def losses_of(part: Sequence[tuple[dict, str]]) -> list[dict]:
            return caption_losses(seen, *zip(*part, strict=True), method.interventions)

        with start_run(out, seen.settings(method), list(references)) as run:
            for number, block in run.blocks(seen.samples, seen.batch_size, method.label, seen.image_of):
                rows, sizes = [], []
                for index in range(self.captions_per_image):
                    known = ((sample, references[sample["image_id"]]) for sample in block)
                    if shown := [(sample, captions[index]) for sample, captions in known if index < len(captions)]:
                        parts, size = in_parts(losses_of, shown)
                        sizes.append(size)
                        rows += [{**row, "caption": index} for part in parts for row in part]
                run.finish_block(number, block, rows, sub_batch=smallest_part(sizes))
            run.write_rows("losses.jsonl")
            return run.finished_rows()

    def summarise(self, compared: Compared) -> dict:
        results, groups, folders = compared.results, compared.groups, self._names(compared.members)
        captions = {folders[name]: {"captions": metrics} for name, metrics in self.captions.items()}
        means = {group: mean_losses([results[name] for name in names]) for group, names in groups.items()}
        methods = summarise_losses(results | means, "greedy")
        for name, entry in methods.items():
            entry["label"] = compared.labels[name]
            entry |= ({"folders": groups[name]} if name in groups else {}) | captions.get(name, {})
        settings = compared.settings | {"task": self._evaluation(compared.evaluation).task}
        return {"methods": methods, "settings": settings, "run": provenance()}


def mean_losses(runs: Sequence[Sequence[dict]]) -> list[dict]:
    """The rows of several methods on the same captions as one: each caption's mean `nats`.

    Raises:
        ValueError: methods that saw other captions.
    """
    keys = ("image_id", "caption", "n_tokens")
    if len({tuple(tuple(row[key] for key in keys) for row in rows) for rows in runs}) > 1:
        raise ValueError("methods of a group were measured on different captions; expected the same")
    return [{**rows[0], "nats": fmean(row["nats"] for row in rows)} for rows in zip(*runs, strict=True)]


def caption_losses(
    evaluation: Evaluation, samples: Sequence[dict], captions: Sequence[str], interventions: Sequence[Intervention]
) -> list[dict]:
    """The loss of one reference caption per image, in one batch: rows of `image_id`, `nats` and `n_tokens`."""
    lvlm = evaluation.lvlm
    images = [load_image(evaluation.image_of(sample)) for sample in samples]
    responses = reference_tokens(lvlm, captions, evaluation.max_new_tokens)
    batch = lvlm.encode(images, [evaluation.prompt] * len(images), responses)
    losses = answer_losses(lvlm, batch, responses, interventions)
    return [
        {"image_id": sample["image_id"], "nats": nats, "n_tokens": len(ids)}
        for sample, nats, ids in zip(samples, losses, responses, strict=True)
    ]


def caption_metrics(given: Sequence[str], truth: Mapping[str, str]) -> dict[str, dict]:
    """Of the files that --captions names, by method: CAPTION_METRICS with their intervals, and the file's sha256.

    Raises:
        ValueError: a text that is not METHOD=FILE, a file without scored captions, or captions that were scored by
            other annotations.
    """
    metrics = {}
    for text in given:
        name, _, path = text.partition("=")
        if not path:
            raise ValueError(f"--captions {text}: expected METHOD=FILE")
        content = read_json(Path(path))
        if "sentences" not in content:
            raise ValueError(f"--captions {path}: no `sentences` there; expected a file of scored captions")
        made = content.get("run") or {}
        scored_by = made.get("truth") or {Path(file).name: digest for file, digest in made.get("sha256", {}).items()}
        if changed := [file for file in truth if scored_by.get(file, truth[file]) != truth[file]]:
            raise ValueError(f"--captions {path}: scored by another {changed[0]} than --annotations has; score it anew")
        summary = summarise(content["sentences"])
        intervals = {metric: summary["interval"][metric] for metric in CAPTION_METRICS}
        metrics[name] = {metric: summary[metric] for metric in (*CAPTION_METRICS, "n")}
        metrics[name] |= {"sha256": sha256(Path(path)), "interval": intervals}
    return metrics
