"""The report's numbers in rows of cells: comparisons of methods, CHAIR of captions, runs with their settings."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from llava_hh.comparing.summary import POPE_FILE, cell, table_of, table_of_pope
from llava_hh.files.tables import Table
from llava_hh.metrics.of_captions import METRICS
from llava_hh.report.folder import DRAW, SCORED, UNREADABLE, ResultFolder, name_of, read_form

NO_SETTINGS = ("settings", "image_ids", "seconds", "seconds_before")  # of run.json, shown elsewhere or too long


def find_comparisons(results: ResultFolder, further: Sequence[Path] = ()) -> list[dict]:
    """A table of every comparison of methods.

    Args:
        further: comparisons that lie elsewhere; they come first.
    Returns: `path`, `source`, `draw`, `heads`, `rows` of cells, `note`, and the summary's `methods`.
    """
    return [
        *(_of_captions(results, path) for path in further),
        *results.each(results.named("summary*.json"), partial(_of_captions, results)),
        *results.each(
            results.named(POPE_FILE), lambda path: _comparison(results, path, read_form(path, table_of_pope))
        ),
    ]


def find_uncompared(results: ResultFolder, comparisons: Sequence[dict]) -> list[dict]:
    """Tables as those of `find_comparisons`, but without tests, of captions side by side where no comparison is."""
    compared = {own["path"].parent for own in comparisons}
    groups: dict[Path, list[Path]] = {}
    for path in results.named(SCORED):
        if path.parent.parent not in compared and not DRAW.fullmatch(path.parent.name):
            groups.setdefault(path.parent.parent, []).append(path)
    tables = []
    for paths in groups.values():
        found = results.each(paths, _method)
        methods = dict(sorted(found, key=lambda method: method[1].get("kind", method[0]) != "greedy"))  # stable
        if len(methods) > 1:
            table = table_of({"settings": {}, "methods": methods})
            tables.append(_comparison(results, paths[0], table, methods))
            tables[-1]["note"] += " Differences are tested by llava-hh compare runs."
    return tables


def _method(path: Path) -> tuple[str, dict]:
    """A file of captions as a method of a comparison: its folder's name, and its metrics."""
    about = read_form(path, lambda content: {name: content[name] for name in ("label", "kind") if name in content})
    metrics = read_form(path, lambda content: {**content["overall_metrics"]})
    table_of({"settings": {}, "methods": {name_of(path): metrics | about}})  # of the form that is read
    return name_of(path), metrics | about


def _of_captions(results: ResultFolder, path: Path) -> dict:
    table, methods = read_form(path, lambda content: (table_of(content), content["methods"]))
    return _comparison(results, path, table, methods)


def _comparison(results: ResultFolder, path: Path, table: Table, methods: Mapping[str, dict] | None = None) -> dict:
    rows = [[row[0], *map(in_words, row[1:])] for row in table.rows]  # the first cell is a name
    about = {"methods": methods or {}, "source": results.link(path), "draw": results.draw(path)}
    return {"path": path, "heads": table.heads, "rows": rows, "note": table.note, **about}


def find_chair(results: ResultFolder) -> dict | None:
    """CHAIR of every file of captions, one row each; None where there is none."""

    def cells(content: dict) -> list[str]:
        overall = content["overall_metrics"]
        return [*(cell(overall, name) for name in METRICS), str(overall["n"])]

    def row(path: Path) -> list[str]:
        return [results.link(path), *map(in_words, read_form(path, cells))]

    rows = results.each(results.named(SCORED), row)
    heads = ["captions", *(metric.head for metric in METRICS.values()), "n"]
    return {"heads": heads, "rows": rows} if rows else None


def headline(comparisons: Sequence[dict]) -> list[dict]:
    """The large numbers on top: CHAIR_i, CHAIR_s and recall of greedy decoding and of AD-HH, in percent.

    They are those of the first comparison that has both methods; without one the list is empty.
    """
    for table in comparisons:
        try:
            found = _headline(table)
        except UNREADABLE:  # a comparison of an earlier version, or a part of it is odd
            continue
        if found:
            return found
    return []


def _headline(table: dict) -> list[dict]:
    methods = table["methods"]
    adhh = next((entry for name, entry in methods.items() if entry.get("kind", name) == "adhh"), None)
    if "greedy" in methods and adhh:
        about = {"n": adhh["n"], "source": table["source"], "draw": table["draw"]}
        return [
            {
                "label": f"{name} with heads switched off (AD-HH)",
                "before": in_words(f"{100 * methods['greedy'][metric]:.1f}%"),
                "after": in_words(f"{100 * adhh[metric]:.1f}%"),
                "interval": in_words("{:.1f} to {:.1f}".format(*(100 * end for end in adhh["interval"][metric]))),
                **about,
            }
            for metric, name in (("CHAIRi", "CHAIR_i"), ("CHAIRs", "CHAIR_s"), ("recall", "recall"))
        ]
    return []


def find_runs(results: ResultFolder) -> list[dict]:
    """The runs that made the parts of the folder: script, date, commit, versions, and the settings in lines."""

    def run(path: Path) -> dict:
        return {"source": results.link(path), **read_form(path, _run)}

    return results.each(sorted(results.named("run.json")), run)


def in_words(cell: str) -> str:
    """A cell of a table in which NaN and infinite numbers are told from text."""
    return re.sub(r"(?<![\w/])[-+]?(nan|inf)(?![\w/])", "not finite", str(cell))


def _run(content: dict) -> dict:
    about = {name: value for name, value in content.items() if name not in NO_SETTINGS}
    return {
        "script": _command(content["argv"]),
        "date": str(content["date"]),
        "n": len(content["image_ids"]),
        "seconds": None if content["seconds"] is None else in_words(f"{content['seconds']:,.0f}"),
        "lines": _lines({**content["settings"], **about}),
    }


def _command(argv: list[str]) -> str:
    """The verb that made a run, such as "attribute" or "figure bias"."""
    words = list(takewhile(lambda word: not word.startswith("-"), argv[1:3]))
    return " ".join(words) if words and argv[0] == "llava-hh" else argv[0].removesuffix(".py")


def _shown(value: Any) -> str:
    return in_words(f"{value}") if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _lines(settings: dict, above: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, JSON value)."""
    lines = []
    for name, value in settings.items():
        is_nested = isinstance(value, dict) and value
        text = above + name
        lines += _lines(value, f"{text}.") if is_nested else [(text, _shown(value))]
    return lines
