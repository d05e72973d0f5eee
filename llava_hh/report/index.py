"""The index of a folder of results: every run, and the reports about them."""

from pathlib import Path

from llava_hh.report.folder import ResultFolder
from llava_hh.report.tables import find_comparisons, find_runs, headline

REPORT = "report.html"
ROOT = "results"  # the name of the folder whose index lists all runs


def index_folder(folder: Path) -> Path | None:
    """The nearest folder named ROOT around a folder of results, or itself."""
    ways = (folder.absolute(), folder.resolve())  # as it was named, which may be through a link, and where it lies
    return next((around for way in ways for around in (way, *way.parents) if around.name == ROOT), None)


def collect_index(root: Path) -> dict:
    """`reports`, each with its `link`, `name` and `headline`, the `runs` of all, and what was `left_out`."""
    results = ResultFolder(root)
    reports, runs = [], find_runs(results)
    for path in results.named(REPORT):
        below = ResultFolder(path.parent)
        numbers = headline(find_comparisons(below))
        results.left_out += below.left_out
        reports.append({"link": results.link(path), "name": results.link(path.parent), "headline": numbers})
    return {"reports": reports, "runs": runs, "left_out": list(dict.fromkeys(results.left_out))}
