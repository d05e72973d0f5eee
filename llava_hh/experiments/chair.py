"""The task of captions: CHAIR, recall, BLEU and time of every method, and what heads did; tables and pictures."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_hh.comparing.summary import LABELS, compare
from llava_hh.decoding.making import Member
from llava_hh.decoding.method import Method
from llava_hh.experiments.captioning import Captioned, CaptionSettings, Evaluation
from llava_hh.experiments.compared import Compared
from llava_hh.files.files import read_json, read_json_lines
from llava_hh.metrics.statistics import compare_with_reference
from llava_hh.runs.scored import RESULT_FILE
from llava_hh.runs.settings import digest_of

KEPT_LOG = ("loss", "ce", "attention_loss", "image_mass", "after_image_mass")


class CaptionTask:
    """Captions of every method, scored by CHAIR."""

    def settings(self, evaluation: Evaluation, method: Method) -> dict[str, CaptionSettings]:
        return {"": evaluation.settings(method)}

    def try_out(self, evaluation: Evaluation, method: Method) -> None:
        evaluation.try_out(method)

    def run(self, evaluation: Evaluation, method: Method, out: Path) -> Captioned:
        return evaluation.run(method, out)

    def summarise(self, compared: Compared) -> dict:
        results, rows = compared.results, [member for member in compared.run if member.has_row]
        sentences = {name: captioned.rows for name, captioned in results.items()}
        repeated = {group: [sentences[name] for name in names] for group, names in compared.groups.items()}
        with_row = {member.method.name: sentences[member.method.name] for member in rows}
        summary = compare(with_row, repeated, compared.settings)
        entries, costs = summary["methods"], costs_of(compared.out, results)
        tunings = {member.method.name: fine_tuning_of(member) for member in compared.run}
        fired = {name: captioned.fired for name, captioned in results.items()}
        for member in rows:
            name = member.method.name
            entries[name] |= {"label": member.method.label, "kind": member.method.kind, "method": str(member.spec)}
            about = {"folder": name, "fine_tuning": tunings[name], "fired": fired[name]}
            entries[name] |= _filled(about, about) | costs[name]
            if name != "greedy":
                entries[name]["same_as_greedy"] = same_captions(sentences[name], sentences["greedy"])
        is_random = {member.group: member.spec.kind == "random" for member in compared.members}
        for group, names in compared.groups.items():
            entries[group] |= {"label": LABELS.get(group, group), "folders": names, "draws_heads": is_random[group]}
            entries[group] |= mean_costs([costs[name] for name in names])
            about = {"fine_tuning": _filled(tunings, names), "fired": _filled(fired, names)}
            entries[group] |= _filled(about, about)
        for name, first, difference in differences_of_kinds(rows, sentences):
            entries[name]["minus_first_of_kind"] = {"first": first, **difference}
        return summary


def same_captions(rows: Sequence[dict], others: Sequence[dict]) -> int:
    """Of how many images the captions have the same text."""
    texts = {row["image_id"]: row["text"] for row in others}
    return sum(row["text"] == texts[row["image_id"]] for row in rows)


def _filled(content: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The entries under these keys that are not empty."""
    return {key: content[key] for key in keys if content[key]}


def costs_of(out: Path, results: Mapping[str, Captioned]) -> dict[str, dict]:
    """BLEU, seconds per generated token, and these relative to greedy, of the methods whose folders are in `out`.

    Times are medians over batches; a method's batch is compared with greedy's batch of the same images. BLEU is left
    out where there are no reference captions, and times where an older version kept none.
    """
    costs: dict[str, dict] = {}
    for name, captioned in results.items():
        overall = read_json(out / name / RESULT_FILE)["overall_metrics"]
        costs[name] = {"Bleu": overall["Bleu"]} if "Bleu" in overall else {}
        pairs = [
            (time, base)
            for (time, n_images), (base, n_base) in zip(captioned.times, results["greedy"].times, strict=False)
            if time and base and n_images == n_base
        ]
        if pairs:
            costs[name]["seconds_per_token"] = round(statistics.median(time for time, _ in pairs), 6)
            costs[name]["relative_time"] = round(statistics.median(time / base for time, base in pairs), 4)
    return costs


def mean_costs(costs: Sequence[dict]) -> dict:
    """The mean of each cost that all runs of a group have."""
    shared = set.intersection(*map(set, costs))
    means = {key: statistics.fmean(cost[key] for cost in costs) for key in sorted(shared - {"Bleu"})}
    if "Bleu" in shared:
        means["Bleu"] = [statistics.fmean(values) for values in zip(*(cost["Bleu"] for cost in costs), strict=True)]
    return means


def differences_of_kinds(rows: Sequence[Member], sentences: Mapping[str, Sequence[dict]]) -> list[tuple]:
    """The paired differences between methods that differ in their heads alone: (method, first, difference)."""
    groups: dict[str, list[str]] = {}
    for member in rows:
        described = member.method.describe()
        edits = [{**edit, "heads": len(edit["heads"])} for edit in described["interventions"]]
        if edits and member.method.checkpoint is None:
            groups.setdefault(digest_of([edits, described["decoder"]]), []).append(member.method.name)
    differences = []
    for names in groups.values():
        if len({tuple(row["image_id"] for row in sentences[name]) for name in names}) == 1 and len(names) > 1:
            tested = compare_with_reference({name: sentences[name] for name in names}, names[0])
            differences += [(name, names[0], difference) for name, difference in tested.items()]
    return differences


def fine_tuning_of(member: Member) -> dict:
    """Settings of the fine-tuning that a checkpoint is from, and how its log begins and ends (means of a tenth of it).

    Empty where the checkpoint does not lie in the folder of such a run.
    """
    checkpoint = member.method.checkpoint
    if checkpoint is None or not (checkpoint.parent / "log.jsonl").is_file():
        return {}
    try:
        rows = [{name: row[name] for name in KEPT_LOG} for _, row in read_json_lines(checkpoint.parent / "log.jsonl")]
        run = read_json(checkpoint.parent / "run.json")
        settings = {name: value for name, value in dict(run["settings"]).items() if name != "model"}
        seconds = run["seconds"]
    except (KeyError, TypeError, ValueError, OSError):  # the log of another trainer
        return {}
    tenth = max(1, len(rows) // 10)

    def mean(part: list[dict]) -> dict:
        return {name: round(sum(row[name] for row in part) / len(part), 5) for name in KEPT_LOG}

    return {"settings": settings, "start": mean(rows[:tenth]), "end": mean(rows[-tenth:]), "seconds": seconds}
