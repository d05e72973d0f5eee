"""A results folder as one HTML file: its numbers, figures, heads and captions. The page loads nothing."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from llava_hh.report.captions import find_sets
from llava_hh.report.figures import find_figures
from llava_hh.report.folder import ResultFolder
from llava_hh.report.heads import find_heads
from llava_hh.report.images import shrink_images
from llava_hh.report.index import collect_index
from llava_hh.report.tables import find_chair, find_comparisons, find_runs, headline

LARGEST_PAGE = 15_000_000  # bytes
SCRIPTS = ("grid.js", "heads.js", "words.js", "browser.js")


def render_report(folder: Path, summaries: Sequence[Path] = (), limit: int = 200, first: Sequence[Path] = ()) -> str:
    """The page of a results folder, with the parts for which the folder has files.

    Args:
        summaries: comparisons of methods that lie elsewhere.
        limit: images in the caption browser.
        first: parts of the folder, such as draws of images, that the heads and the numbers on top are taken from.
    Raises:
        FileNotFoundError: no such folder, or no captions, comparisons or attribution in it.
        ValueError: a result file without the keys that are read, or more images than LARGEST_PAGE has room for.
    """
    results = ResultFolder(folder, first)
    comparisons = find_comparisons(results, summaries)
    sets, files = find_sets(results, limit)
    heads = find_heads(results)
    if not (comparisons or sets or heads):
        what = "no captions, comparisons or attribution there"
        raise FileNotFoundError(f"{folder}: {what}; expected a folder of results")
    page = {
        "title": "/".join(folder.resolve().parts[-2:]),
        "headline": headline(comparisons),
        "comparisons": comparisons,
        "chair": find_chair(results),
        "figures": find_figures(results),
        "runs": find_runs(results),
        "heads": heads,
        "sets": sets,
    }

    def page_with(pictures: dict[str, str]) -> str:
        return _fill("page.html.j2", page | {"data": _data({"heads": heads, "sets": sets, "pictures": pictures})})

    keys = sum(len(json.dumps(key)) + 4 for key in files)
    return page_with(shrink_images(files, LARGEST_PAGE - len(page_with({}).encode()) - keys))


def render_index(root: Path) -> str:
    """The page that lists all runs and reports below a folder.

    Raises:
        ValueError: a run.json or a comparison of another form.
    """
    return _fill("index.html.j2", collect_index(root))


def _fill(template: str, values: dict) -> str:
    """A template with values, all of them escaped; only the package's own style and scripts run in the page."""
    how = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=PackageLoader("llava_hh.report"), **how)
    folder = Path(__file__).parent / "templates"
    parts = {"style": ("page.css",), "script": SCRIPTS}
    texts = {name: "\n".join((folder / file).read_text(encoding="utf-8") for file in parts[name]) for name in parts}
    hashes = {f"{name}_hash": _hash(text) for name, text in texts.items()}
    marked = {name: Markup(text) for name, text in texts.items()}
    return environment.get_template(template).render(**values, **marked, **hashes)


def _data(content: dict) -> Markup:
    """JSON for a script element: it has no `<`, which could end the element or begin a comment."""
    return Markup(json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
