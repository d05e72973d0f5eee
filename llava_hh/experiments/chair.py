"""The task of captions: CHAIR, recall, BLEU and time of every method, and what heads did; tables and pictures."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_hh.comparing.summary import LABELS, compare
from llava_hh.decoding.making import Member
from llava_hh.decoding.method import Method
from llava_hh.experiments.captioning import Captioned, Evaluation
from llava_hh.experiments.grouped import groups_of
from llava_hh.files.files import read_json, read_json_lines
from llava_hh.metrics.statistics import compare_with_reference
from llava_hh.runs.run import begun_run
from llava_hh.runs.scored import RESULT_FILE
from llava_hh.runs.settings import digest_of

KEPT_LOG = ("loss", "ce", "attention_loss", "image_mass", "after_image_mass")


@dataclass(frozen=True)
class CaptionTask:
    """Captions of every method, scored by CHAIR."""

    def try_out(self, evaluation: Evaluation, method: Method, out: Path) -> None:
        evaluation.try_out(method, out)

    def foresee(self, evaluation: Evaluation, method: Method, out: Path) -> None:
        begun_run(out, evaluation.settings(method), ("model",))

    def run(self, evaluation: Evaluation, method: Method, out: Path) -> Captioned:
        return evaluation.run(method, out)

    def report(
        self,
        evaluation: Evaluation,
        members: Sequence[Member],
        results: dict[str, Captioned],
        settings: dict,
        out: Path,
    ) -> dict:
        sentences = {name: found.rows for name, found in results.items()}
        grouped = groups_of(members, sentences)
        alone = [member.method.name for member in members if member.method.name in sentences and member.has_row]
        repeated = {group: [sentences[name] for name in names] for group, names in grouped.items()}
        summary = compare({name: sentences[name] for name in alone}, repeated, settings)
        entries = summary["methods"]
        costs = costs_of(out, results)
        for member in members:
            name = member.method.name
            if name in entries:
                entries[name] |= {
                    "label": member.method.label,
                    "kind": member.method.kind,
                    "method": str(member.spec),
                    "folder": name,
                    **({"fine_tuning": tuning} if (tuning := fine_tuning_of(member)) else {}),
                    **({"fired": results[name].fired} if results[name].fired else {}),
                    **costs[name],
                }
        is_random = {member.group: member.spec.kind == "random" for member in members}
        for group, names in grouped.items():
            entries[group] |= {
                "label": LABELS.get(group, group),
                "folders": names,
                "draws_heads": is_random[group],
                **mean_costs([costs[name] for name in names]),
            }
            if tunings := {
                member.method.name: own
                for member in members
                if member.method.name in names and (own := fine_tuning_of(member))
            }:
                entries[group]["fine_tuning"] = tunings
            if fired := {name: results[name].fired for name in names if results[name].fired}:
                entries[group]["fired"] = fired
        for name, first, difference in differences_of_kinds(members, sentences):
            entries[name]["minus_first_of_kind"] = {"first": first, **difference}
        return summary


def costs_of(out: Path, results: Mapping[str, Captioned]) -> dict[str, dict]:
    """BLEU, seconds per generated token, and these relative to greedy, of the methods whose folders are in `out`.

    Times are medians over batches; a method's batch is measured by greedy's batch of the same images. What a run
    does not have is left out: BLEU without reference captions, times of captions that an older version left.
    """
    found: dict[str, dict] = {}
    base_times = results["greedy"].times
    for name, own in results.items():
        overall = read_json(out / name / RESULT_FILE)["overall_metrics"]
        found[name] = {"Bleu": overall["Bleu"]} if "Bleu" in overall else {}
        pairs = [
            (time, base)
            for (time, n_images), (base, n_base) in zip(own.times, base_times, strict=False)
            if time and base and n_images == n_base
        ]
        if pairs:
            found[name]["seconds_per_token"] = round(statistics.median(time for time, _ in pairs), 6)
            found[name]["relative_time"] = round(statistics.median(time / base for time, base in pairs), 4)
    return found


def mean_costs(costs: Sequence[dict]) -> dict:
    """The mean of each cost that all runs of a group have."""
    shared = set.intersection(*map(set, costs)) if costs else set()
    means = {key: statistics.fmean(own[key] for own in costs) for key in sorted(shared - {"Bleu"})}
    if "Bleu" in shared:
        means["Bleu"] = [statistics.fmean(values) for values in zip(*(own["Bleu"] for own in costs), strict=True)]
    return means


def differences_of_kinds(
    members: Sequence[Member], sentences: Mapping[str, Sequence[dict]]
) -> list[tuple[str, str, dict]]:
    """The paired differences between methods that differ in their heads alone: (method, first, difference)."""
    found = []
    groups: dict[str, list[str]] = {}
    for member in members:
        if member.has_row and member.method.name in sentences and member.method.checkpoint is None:
            described = member.method.describe()
            edits = [{**edit, "heads": len(edit["heads"])} for edit in described["interventions"]]
            if edits:
                key = digest_of([edits, described["decoder"]])
                groups.setdefault(key, []).append(member.method.name)
    for alike in groups.values():
        if len({tuple(row["image_id"] for row in sentences[name]) for name in alike}) == 1 and len(alike) > 1:
            tested = compare_with_reference({name: sentences[name] for name in alike}, alike[0])
            found += [(name, alike[0], difference) for name, difference in tested.items()]
    return found


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
        made, seconds = dict(run["settings"]), run["seconds"]
    except (KeyError, TypeError, ValueError, OSError):  # the log of another trainer
        return {}
    tenth = max(1, len(rows) // 10)

    def mean(part: list[dict]) -> dict:
        return {name: round(sum(row[name] for row in part) / len(part), 5) for name in KEPT_LOG}

    settings = {name: value for name, value in made.items() if name != "model"}
    ends = {"start": mean(rows[:tenth]), "end": mean(rows[-tenth:])}
    return {"settings": settings, **ends, "seconds": seconds}
