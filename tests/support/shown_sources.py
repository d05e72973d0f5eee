"""The tables of what mini's heads do by reading each part of the context, and of the heads of POPE's answers."""

import json
from pathlib import Path
from statistics import median

from llava_hh.attribution.sources import MEASURED_SOURCES
from llava_hh.attribution.summary import counted_words
from llava_hh.figures.head_map import SOURCE_LABELS
from llava_hh.files.tables import Table
from llava_hh.heads import Head

STRONGEST, ALSO = 5, (24, 4)  # one of the two heads that tuning trained against repetition


def table(folder: Path) -> Table:
    """The strongest heads of measured_influence_by_source.json: whole, by source, what is left, the direct effect."""
    result = json.loads((folder / "measured_influence_by_source.json").read_text(encoding="utf-8"))
    by_source, run = result["sources"]["by_source"], result["run"]
    parts = {source: by_source[source] for source in MEASURED_SOURCES}
    heads = [tuple(head) for head in result["hal_heads"][:STRONGEST]]
    rows = []
    for layer, head in dict.fromkeys([*heads, *map(tuple, result["sources"]["text_heads"][:STRONGEST]), ALSO]):
        own = [_with_interval(scores, layer, head) for scores in (result, *parts.values())]
        gap, direct = result["sources"]["gap"][layer][head], _with_interval(result["direct"], layer, head)
        ranks = [_rank(result["hal_heads"], layer, head), _rank(result["sources"]["text_heads"], layer, head)]
        rows.append([str(Head(layer, head)), *ranks, *own, f"{gap:+.3f}", direct])
    names = [f"by reading {SOURCE_LABELS[source]}" for source in parts]
    of = f"Drop of p(word), hallucinated minus true; {counted_words(result)}"
    note = f"{of}; in brackets 95% bootstrap intervals over images. Rank by text: by what reading text does. Gap: the "
    note += "whole head without its parts. Directly: its own term in the final residual."
    where = f" Measured on {run['date'][:10]}, CPU, {run['machine']}."
    return Table(["head", "rank", "rank by text", "whole head", *names, "gap", "directly"], rows, note + where)


def answers(folder: Path) -> Table:
    """The strongest heads of wrong answers, by the format of the question: measured_answers_*.json."""
    rows, run = [], {}
    for form in ("llava", "vcd", "none"):
        result = json.loads((folder / f"measured_answers_{form}.json").read_text(encoding="utf-8"))
        run, heads = result["run"], [tuple(head) for head in result["hal_heads"][:3]]
        named = ", ".join(f"{Head(*head)} {_with_interval(result, *head)}" for head in heads)
        rows.append([form, str(result["n_hallucinated_words"]), str(result["n_true_words"]), named])
    note = "Drop of p(yes) or p(no), as it was answered, wrong answers minus right ones; in brackets 95% bootstrap "
    note += f"intervals over images. Measured on {run['date'][:10]}, CPU, {run['machine']}."
    return Table(["format", "wrong answers", "right answers", "strongest heads"], rows, note)


def times(folder: Path) -> Table:
    """What influence by source and direct effects cost: benchmarks/measured/sources.json."""
    content = json.loads((folder / "sources.json").read_text(encoding="utf-8"))
    machine, rows = content["machine"], []
    for row in content["rows"]:
        found = row["ratio"]
        ratio = f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
        rows.append([str(row["targets"]), row["way"], f"{median(row['seconds']):.2f}", ratio])
    note = f"{machine['date'][:10]}, {machine['device']}, threads: {machine['threads']}, torch {machine['torch']}; "
    note += f"{content['rows'][0]['ratio']['turns']} turns."
    return Table(["targets", "what", "seconds", "to whole heads alone (lowest to highest)"], rows, note)


def _with_interval(scores: dict, layer: int, head: int) -> str:
    low, high = (ends[layer][head] for ends in scores["interval"]["contrastive_influence"])
    return f"{scores['contrastive_influence'][layer][head]:+.3f} ({low:+.3f} to {high:+.3f})"


def _rank(listed: list, layer: int, head: int) -> str:
    return str(listed.index([layer, head]) + 1) if [layer, head] in listed else f"after {len(listed)}"
