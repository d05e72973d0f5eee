"""A results folder as one HTML file: its numbers, figures, heads and captions. The page loads nothing."""

import base64
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from llava_hh.files.progress import say
from llava_hh.report.about import find_about
from llava_hh.report.captions import find_sets
from llava_hh.report.figures import find_figures
from llava_hh.report.folder import ResultFolder
from llava_hh.report.heads import find_heads
from llava_hh.report.images import shrink_images
from llava_hh.report.index import collect_index
from llava_hh.report.tables import find_chair, find_comparisons, find_runs, find_uncompared, headline

LARGEST_PAGE = 15_000_000  # bytes
PAPER = "https://openreview.net/forum?id=Bjq4W7P2Us"
SCRIPTS = ("grid.js", "heads.js", "words.js", "card.js", "browser.js")


def render_report(folder: Path, summaries: Sequence[Path] = (), limit: int = 200, first: Sequence[Path] = ()) -> str:
    """The page of a results folder, with the parts for which the folder has files.

    Args:
        summaries: comparisons of methods that lie elsewhere.
        limit: images in the caption browser.
        first: parts of the folder, such as draws of images, that the heads and the numbers on top are taken from.
    Raises:
        FileNotFoundError: no such folder, or no captions, comparisons or attribution in it.
        ValueError: one of `summaries` without the keys that are read, or more pictures than LARGEST_PAGE has room for.
    """
    results = ResultFolder(folder, first)
    comparisons = find_comparisons(results, summaries)
    comparisons += find_uncompared(results, comparisons)
    sets, files = find_sets(results, limit)
    heads, chair, figures, runs = (find(results) for find in (find_heads, find_chair, find_figures, find_runs))
    if not (comparisons or sets or heads):
        what = "; ".join(["no captions, comparisons or attribution there", *results.left_out])
        raise FileNotFoundError(f"{folder}: {what}; expected a folder of results")
    _warn(results.left_out)
    page = {
        "title": "/".join(folder.resolve().parts[-2:]),
        "about": find_about(results),
        "paper": PAPER,
        "headline": headline(comparisons),
        "comparisons": comparisons,
        "left_out": results.left_out,
        "chair": chair,
        "figures": figures,
        "runs": runs,
        "heads": heads,
        "sets": sets,
    }

    def page_with(pictures: dict[str, str]) -> str:
        return fill("page.html.j2", page | {"data": data_of({"heads": heads, "sets": sets, "pictures": pictures})})

    room = LARGEST_PAGE - len(page_with({}).encode()) - sum(len(json.dumps(key)) + 4 for key in files)
    if room < 0 and figures:
        largest = max(figures, key=lambda figure: len(figure["picture"]))
        taken = (
            f"the figure of {largest['source']} takes {len(largest['picture']):,} bytes of the page's {LARGEST_PAGE:,}"
        )
        raise ValueError(f"{folder}: {taken}; draw it smaller, or move it away")
    return page_with(shrink_images(files, room))


def render_index(root: Path) -> str:
    """The page that lists all runs and reports below a folder."""
    content = collect_index(root)
    _warn(content["left_out"])
    return fill("index.html.j2", content)


def _warn(left_out: Sequence[str]) -> None:
    for line in left_out:
        say(f"warning: left out: {line}", sys.stderr)


def fill(template: str, values: dict, scripts: Sequence[str] = SCRIPTS) -> str:
    """A template with values, all of them escaped; only the package's own style and scripts run in the page."""
    how = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=PackageLoader("llava_hh.report"), **how)
    environment.filters["quoted"] = _quoted
    folder = Path(__file__).parent / "templates"
    parts = {"style": ("page.css",), "script": scripts}
    texts = {name: "\n".join((folder / file).read_text(encoding="utf-8") for file in parts[name]) for name in parts}
    hashes = {f"{name}_hash": _hash(text) for name, text in texts.items()}
    marked = {name: Markup(text) for name, text in texts.items()}
    page = environment.get_template(template).render(**values, **marked, **hashes)
    return page.encode("utf-8", "backslashreplace").decode("utf-8")  # names of files may be of another encoding


def _quoted(name: str) -> str:
    """A path as a link: other characters as %XX, and so is a colon, before which a scheme would stand."""
    return re.sub(rb"[^A-Za-z0-9/._~=,+@()!$&;-]", lambda found: b"%%%02X" % found[0][0], os.fsencode(name)).decode()


def data_of(content: dict) -> Markup:
    """JSON for a script element: it has no `<`, which could end the element or begin a comment."""
    text = json.dumps(_finite(content), separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _finite(content: Any) -> Any:
    """The content with null for numbers that JSON has no word for."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
