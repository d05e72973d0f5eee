"""The report's numbers in rows of cells: comparisons of methods, CHAIR of captions, runs with their settings."""

import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from llava_hh.comparing.summary import POPE_FILE, cell, table_of, table_of_pope
from llava_hh.metrics.of_captions import METRICS
from llava_hh.report.folder import ResultFolder, read_form
from llava_hh.runs.scored import RESULT_FILE

NO_SETTINGS = ("settings", "image_ids", "seconds", "seconds_before")  # of run.json, shown elsewhere or too long


def find_comparisons(results: ResultFolder, further: Sequence[Path] = ()) -> list[dict]:
    """A table of every comparison of methods.

    Args:
        further: comparisons that lie elsewhere; they come first.
    Returns: `path`, `source`, `draw`, `heads`, `rows` of cells, `note`, and the summary's `methods`.
    """
    tables = []
    for path in [*further, *results.named("summary*.json")]:
        summary, table = read_form(path, lambda content: (content, table_of(content)))
        tables.append((path, table, summary["methods"]))
    tables += [(path, read_form(path, table_of_pope), {}) for path in results.named(POPE_FILE)]
    return [
        {"path": path, **vars(table), "methods": methods, "source": results.link(path), "draw": results.draw(path)}
        for path, table, methods in tables
    ]


def find_chair(results: ResultFolder) -> dict | None:
    """CHAIR of every file of captions, one row each; None where there is none."""

    def cells(content: dict) -> list[str]:
        overall = content["overall_metrics"]
        return [*(cell(overall, name) for name in METRICS), str(overall["n"])]

    rows = [[results.link(path), *read_form(path, cells)] for path in results.named(RESULT_FILE)]
    heads = ["captions", *(metric.head for metric in METRICS.values()), "n"]
    return {"heads": heads, "rows": rows} if rows else None


def headline(comparisons: Sequence[dict]) -> list[dict]:
    """The large numbers on top: CHAIR_i, CHAIR_s and recall of greedy decoding and of AD-HH, in percent.

    They are those of the first comparison that has both methods; without one the list is empty.
    """
    for table in comparisons:
        methods = table["methods"]
        adhh = next((entry for name, entry in methods.items() if entry.get("kind", name) == "adhh"), None)
        if "greedy" in methods and adhh:
            about = {"n": adhh["n"], "source": table["source"], "draw": table["draw"]}
            return [
                {
                    "label": f"{name} with heads switched off (AD-HH)",
                    "before": f"{100 * methods['greedy'][metric]:.1f}%",
                    "after": f"{100 * adhh[metric]:.1f}%",
                    "interval": "{:.1f} to {:.1f}".format(*(100 * end for end in adhh["interval"][metric])),
                    **about,
                }
                for metric, name in (("CHAIRi", "CHAIR_i"), ("CHAIRs", "CHAIR_s"), ("recall", "recall"))
            ]
    return []


def find_runs(results: ResultFolder) -> list[dict]:
    """The runs that made the parts of the folder: script, date, commit, versions, and the settings in lines."""
    return [{"source": results.link(path), **read_form(path, _run)} for path in sorted(results.named("run.json"))]


def _run(content: dict) -> dict:
    about = {name: value for name, value in content.items() if name not in NO_SETTINGS}
    return {
        "script": _command(content["argv"]),
        "date": content["date"],
        "n": len(content["image_ids"]),
        "seconds": None if content["seconds"] is None else f"{content['seconds']:,.0f}",
        "lines": _lines({**content["settings"], **about}),
    }


def _command(argv: list[str]) -> str:
    """The verb that made a run, such as "attribute" or "figure bias"."""
    words = list(takewhile(lambda word: not word.startswith("-"), argv[1:3]))
    return " ".join(words) if words and argv[0] == "llava-hh" else argv[0].removesuffix(".py")


def _lines(settings: dict, above: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, JSON value)."""
    lines = []
    for name, value in settings.items():
        is_nested = isinstance(value, dict) and value
        text = above + name
        lines += _lines(value, f"{text}.") if is_nested else [(text, json.dumps(value, ensure_ascii=False))]
    return lines
