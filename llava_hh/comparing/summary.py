"""The summary of a comparison of methods on the same images, and its table."""

from collections.abc import Mapping, Sequence
from typing import Any

from llava_hh.files.tables import Estimate, Table
from llava_hh.metrics.of_captions import METRICS, metrics_in_tables
from llava_hh.metrics.statistics import (
    PERMUTATIONS,
    compare_with_reference,
    on_same_images,
    spread_over_runs,
    summarise,
    summarise_mean,
)
from llava_hh.runs.run import provenance

LABELS = {  # of methods in results that do not say theirs
    "greedy": "greedy",
    "adhh": "AD-HH",
    "removal": "heads removed",
    "removal_released": "heads removed, released indexing",
    "random_heads": "random heads",
    "tfhh": "TF-HH",
    "random_heads_tuned": "as many random heads fine-tuned",
}
POPE_FILE = "pope.json"
BY_LOGITS = "logits"  # POPE judged by the likelier of yes and no, beside the parsers of text
OF_P_VALUES = f"two-sided paired permutation test ({PERMUTATIONS:,} resamples, or all swaps if fewer)"


def compare(sentences: dict[str, list[dict]], repeated: dict[str, Sequence[list[dict]]], settings: dict) -> dict:
    """The summary of a comparison: each method with intervals, and paired tests; and means over draws or seeds.

    `minus_greedy` of a method holds its differences from greedy decoding.

    Args:
        sentences: by method, `greedy` among them, over the same images. A method may lack some; greedy decoding then
            has another entry over the method's images.
        repeated: by name, the sentences of each draw or seed, whose mean is reported; empty ones are left out.
    """
    methods: dict[str, dict] = {}

    def reference_of(entries: Sequence[dict]) -> Sequence[dict]:
        base = on_same_images(sentences["greedy"], entries)
        if len(base) < len(sentences["greedy"]):
            methods.setdefault(f"greedy, first {len(base)}", summarise(base))
        return base

    for name, entries in sentences.items():
        reference_of(entries)
        methods[name] = summarise(entries)
    for name, difference in compare_with_reference(sentences, "greedy").items():
        methods[name]["minus_greedy"] = difference
    for name, runs in repeated.items():
        if runs:
            base = reference_of(runs[0])
            methods[name] = {**summarise_mean(runs), "draws": [summarise(run) for run in runs]}
            if len(runs) > 1:
                methods[name]["over_runs"] = spread_over_runs(runs, [base])
    return {"settings": settings, "run": provenance(), "methods": methods}


def methods_of(summary: dict) -> dict[str, dict]:
    """The methods of a summary, by their label in tables and figures."""
    methods = {}
    for name, entry in summary["methods"].items():
        label, n_runs = label_of(name, entry), len(entry.get("draws", ()))
        methods[mean_of(label, n_runs) if n_runs else label] = entry
    return methods


def table_of(summary: dict) -> Table:
    """A row per method with the metrics that are tested, and a note of what intervals and p-values are.

    A column that no method has a value for is left out.
    """
    methods = methods_of(summary)
    entries, tests = methods.values(), tests_of(summary)
    columns = {METRICS[name].head: [cell(entry, name) for entry in entries] for name in metrics_in_tables()}
    columns["BLEU-4 %"] = [f"{100 * entry['Bleu'][3]:.1f}" if "Bleu" in entry else "" for entry in entries]
    times = [entry.get("relative_time") for entry in entries]
    columns["time per token"] = ["" if ratio is None else f"{ratio:.2f}x" for ratio in times]
    columns["as greedy"] = [str(entry.get("same_as_greedy", "")) for entry in entries]
    columns = {head: cells for head, cells in columns.items() if any(cells)}
    columns["p (CHAIR_i)"] = [shown_p(entry.get("minus_greedy", {}).get("CHAIRi")) for entry in entries]
    columns["n"] = [str(entry["n"]) for entry in entries]
    note = "In brackets: 95% bootstrap intervals over the n images."
    if (draw := summary["settings"].get("draw", {})).get("dataset") == "nocaps":
        note = f"nocaps, {draw['split']}: CHAIR over 90 coarse classes, not comparable with COCO's. {note}"
    if tests:
        note += f" p: CHAIR_i against greedy, {OF_P_VALUES}, {family(tests)}."
    if "time per token" in columns:
        note += " Time per generated token: median over batches of the ratio to greedy's time on the same images."
    if "as greedy" in columns:
        note += " As greedy: captions that are greedy decoding's, word by word."
    note += note_of_idle(methods)
    rows = [list(row) for row in zip(methods, *columns.values(), strict=True)]
    return Table(["method", *columns], rows, note + note_of_left_out(summary["settings"]))


def tests_of(summary: dict) -> dict[str, dict]:
    """The tests against greedy decoding, by the name of the method."""
    return {name: entry["minus_greedy"] for name, entry in summary["methods"].items() if "minus_greedy" in entry}


def family(tests: Mapping[str, Mapping[str, Mapping]]) -> str:
    """The tests that Holm's correction covers, in words; `tests` is the result of `compare_with_reference`."""
    metrics = list(dict.fromkeys(metric for by_metric in tests.values() for metric in by_metric))
    n, names = sum(map(len, tests.values())), ", ".join(METRICS[name].head.removesuffix(" %") for name in metrics)
    return f"Holm over {n} tests ({len(tests)} method{'s' * (len(tests) > 1)} x {len(metrics)} metrics: {names})"


def shown_p(test: Mapping[str, float] | None, key: str = "p_holm") -> str:
    """A p-value of `compare_with_reference`, with "<=" where more resamples could make it smaller."""
    if test is None:
        return ""
    bound = "<= " if test["p"] <= test["p_floor"] and test[key] < 1 else ""
    return f"{bound}{test[key]:.2g}"


def label_of(name: str, content: Mapping[str, Any]) -> str:
    """The label of a method in tables: that of its result, else the one that belongs to its name."""
    return str(content.get("label") or LABELS.get(name, name))


def mean_of(label: str, n_runs: int) -> str:
    """The label of the mean of several runs in tables."""
    return f"{label}, mean of {n_runs} run{'s' * (n_runs > 1)}"


def note_of_idle(methods: Mapping[str, Mapping]) -> str:
    """Sentences, after a blank, that name methods which did nothing: no head fired, or no caption changed."""
    never = [label for label, entry in methods.items() if has_never_fired(entry)]
    same = [
        label for label, entry in methods.items() if entry.get("same_as_greedy") == entry["n"] and label not in never
    ]
    note = f" No head fired on these images under: {', '.join(never)}." if never else ""
    return note + (f" Changed no caption: {', '.join(same)}." if same else "")


def has_never_fired(entry: Mapping) -> bool:
    """Whether a method counts how often heads fire, and none did."""
    fired = entry.get("fired", {})
    counts = [count for each in fired.values() for count in ([each] if "fired" in each else each.values())]
    return bool(counts) and not any(count["fired"] for count in counts)


def note_of_left_out(settings: Mapping[str, Any]) -> str:
    """A sentence that names the methods that were left out and why, after a blank; empty where there are none."""
    named = [f"{name} ({why})" for name, why in settings.get("left_out", {}).items()]
    return f" Left out: {'; '.join(named)}." if named else ""


def table_of_pope(content: Mapping[str, Any]) -> Table:
    """POPE's results by text (LLaVA's parser) and by the likelier of yes and no, with intervals."""
    heads = ["method", "questions", "judged by", "accuracy %", "F1 %", "yes %", "unknown % (strict)", "n"]
    rows = []
    for name, judges in content["methods"].items():
        for judge, shown in (("llava", "text"), (BY_LOGITS, BY_LOGITS)):
            for kind, scores in judges.get(judge, {}).items():
                cells = [_with_interval(scores, metric, 100) for metric in ("accuracy", "f1", "yes_ratio")]
                unknown = 0 if judge == BY_LOGITS else judges["strict"][kind]["unknown"]
                cells += [f"{100 * unknown:.1f}", str(scores.get("n", ""))]
                rows.append([label_of(name, judges), kind, shown, *cells])
    left_out = note_of_left_out(content.get("settings", {}))
    return Table(heads, rows, f"POPE, with 95% bootstrap intervals over images.{left_out}")


def table_of_spread(spreads: dict[str, dict]) -> Table:
    """The results of `spread_over_runs` by label: shares in percent, their differences in points."""
    heads = ["over runs", "metric", "mean", "SD", "range", "minus reference (95% over runs)", "SD of one over images"]
    rows = []
    for label, spread in spreads.items():
        for metric in ("CHAIRs", "CHAIRi", "recall", "distinct", "repeated"):
            of_runs, difference, factor = spread[metric], spread[metric]["minus_reference"], METRICS[metric].factor
            low, high = (factor * end for end in of_runs["range"])
            cells = [f"{label}, {spread['n_runs']} runs", METRICS[metric].head, f"{factor * of_runs['mean']:.1f}"]
            cells += [f"{factor * of_runs['sd']:.1f}", f"{low:.1f} to {high:.1f}"]
            cells.append(Estimate(difference["mean"], difference["interval"]["mean"], factor, "+.1f"))
            rows.append([*cells, f"{factor * difference['sd_images']:.1f}"])
    return Table(heads, rows)


def cell(entry: Mapping[str, Any], metric: str) -> str:
    """One of METRICS with its interval, if the entry has both; empty where it has no such metric."""
    return _with_interval(entry, metric, METRICS[metric].factor) if metric in entry else ""


def _with_interval(entry: Mapping[str, Any], metric: str, factor: float) -> str:
    ends = entry.get("interval", {}).get(metric)
    return f"{factor * entry[metric]:.1f}" if ends is None else Estimate(entry[metric], ends, factor)
