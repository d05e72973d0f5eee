"""Tables and sentences of README and docs, each made of a committed result file that a comment above it names.

    <!-- made of results/mini/measured.json -->
    | ... |
    <!-- end -->

What is made of several files in another way is named behind the folder: `results/mini#aims`.

`python -m tests.support.shown_tables` writes them, the numbers of shown_numbers.py, and the head lists of mini anew.
tests/docs/test_tables.py holds them to the files.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from llava_hh.attribution.result import said_of
from llava_hh.command_line.profiles import read_profile
from llava_hh.comparing.details import lines
from llava_hh.comparing.summary import table_of, table_of_pope, table_of_spread
from llava_hh.experiments.shown import table_of_losses
from llava_hh.figures.findings import FIGURES
from llava_hh.files.tables import Table
from llava_hh.report.figures import sentence_of_choice
from tests.support import shown_faults, shown_front, shown_methods, shown_sources
from tests.support.shown_aims import aims, differences
from tests.support.shown_numbers import numbers_renewed

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
VIEWS = {"aims": aims, "differences": differences, "faults": shown_faults.table}
VIEWS |= {name: getattr(shown_front, name) for name in ("front", "hardware", "steps", "claims")}
VIEWS |= {"methods_pope": shown_methods.pope}
VIEWS |= {"sources": shown_sources.table, "answers": shown_sources.answers, "times": shown_sources.times}
MEASURED_HEADS, HEADS_OF_MINI = ROOT / "results/mini/measured_head_map.json", ROOT / "checkpoints/heads/mini.json"
MEASURED_ALLPATH = [ROOT / f"results/mini/measured_{name}.json" for name in ("allpath", "allpath_pope")]
ALLPATH_OF_MINI = ROOT / "checkpoints/heads/allpath/mini.json"
SHOWN = re.compile(r"<!-- made of (\S+) -->\n(.*?)<!-- end -->", re.DOTALL)


def _differ(lists: Iterable[str], up: int) -> bool:
    names = [Path(name).parents[up].name for name in lists]
    return len(set(names)) == len(names)


def heads_in_common(content: dict) -> Table:
    rows = []
    lists = {name for pair in content["pairs"] for name in pair["lists"]}
    up = next((up for up in (1, 2) if _differ(lists, up)), 0)
    named = {path: Path(path).parents[up].name if up else path for path in lists}
    for pair in content["pairs"]:
        common = pair["overlap"][str(content["top_k"])]
        names = " and ".join(named[name] for name in pair["lists"])
        found = f"{common['n']} of {content['top_k']}"
        rows.append([names, found, f"{common['chance'] * content['top_k']:.1f}", f"{common['p']:.2g}"])
    return Table(["lists of", "heads in common", "by chance", "p"], rows)


def table_in(path: Path) -> Table:
    """The table of a result file, of whatever kind it is.

    Raises:
        ValueError: a kind that has no table.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if "pairs" in content:
        return heads_in_common(content)
    if "n_runs" in content:
        return table_of_spread({path.stem.rpartition("_")[2]: content})
    if "loss" in content.get("methods", {}).get("greedy", {}):
        return table_of_losses(content)
    if "methods" in content:
        return (table_of_pope if "llava" in content["methods"]["greedy"] else table_of)(content)
    raise ValueError(f"{path}: no table is made of such a file")


def said_in(path: Path) -> str | None:
    """What is seen in a result file, where that is text."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if finding := {f"measured_{finding.name}": finding for finding in FIGURES}.get(path.stem):
        return f"{finding.title}. {finding.seen_in(path)}"
    if "points" in content and "rule" in content:
        return sentence_of_choice(content)
    text = said_of(path).splitlines()[:-1] if "hal_heads" in content else []
    text = text or (lines(content) if "runs" in content else [])
    return "\n".join(["```text", *text, "```"]) if text else None


def shown(name: str) -> str:
    """The table or text, and what it was measured on and when."""
    path, _, view = name.partition("#")
    if view:
        made = VIEWS[view](ROOT / path)
        return f"{made if isinstance(made, str) else made.markdown()}\n"
    path = ROOT / path
    run = json.loads(path.read_text(encoding="utf-8"))["run"]
    where = f"Measured on {run['date'][:10]}, CPU, {run['machine']}." if "machine" in run else ""
    if said := said_in(path):
        gap = "\n\n" if said.endswith("```") else " "
        return f"{said}{gap}{where}\n"
    table = table_in(path)
    note = " ".join(filter(None, [table.note, where]))
    return f"{Table(table.heads, table.rows, note).markdown()}\n"


def renewed(page: str) -> str:
    tables = SHOWN.sub(lambda found: f"<!-- made of {found[1]} -->\n{shown(found[1])}<!-- end -->", page)
    return numbers_renewed(tables, ROOT)


def head_list_of_mini() -> str:
    """The text of mini's published head list, as figure 2's attribution measured it, with its profile's AD-HH."""
    found, profile = json.loads(MEASURED_HEADS.read_text()), read_profile("mini")
    lists = [f'  "{name}": {json.dumps(found[name])}' for name in ("hal_heads", "non_hal_heads")]
    rest = {"top_k": int(profile["top_k"]), "threshold": float(profile["threshold"])}
    rest |= {"source": f"{MEASURED_HEADS.relative_to(ROOT)}, bash_scripts/mini/measure.sh", "model_type": "llava"}
    rest["n_layers"], rest["n_heads"] = np.shape(found["contrastive_influence"])
    rest |= {"text_type": "llama", "n_key_heads": 3}  # SmolLM2-135M
    return "{\n" + ",\n".join([*lists, *(f'  "{name}": {json.dumps(value)}' for name, value in rest.items())]) + "\n}\n"


def allpath_of_mini() -> str:
    """The text of mini's rankings for AllPath, as they were measured."""
    found = {}
    for path in MEASURED_ALLPATH:
        found |= json.loads(path.read_text())["allpath"]
    shape = json.loads(HEADS_OF_MINI.read_text())
    names = ("model_type", "n_layers", "n_heads", "text_type", "n_key_heads")
    source = f"{' and '.join(path.name for path in MEASURED_ALLPATH)} of results/mini, bash_scripts/mini/measure.sh"
    lines = [
        f'  "{name}": {json.dumps(value)}' for name, value in {"source": source, **{n: shape[n] for n in names}}.items()
    ]
    for task, rankings in found.items():
        ends = {name: {end: ranking[end] for end in ("highest", "lowest")} for name, ranking in rankings.items()}
        inner = ",\n".join(f'    "{name}": {json.dumps(each)}' for name, each in ends.items())
        lines.append(f'  "{task}": {{\n{inner}\n  }}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    new_texts = {page: renewed(page.read_text(encoding="utf-8")) for page in PAGES}
    for path, text in {**new_texts, HEADS_OF_MINI: head_list_of_mini(), ALLPATH_OF_MINI: allpath_of_mini()}.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main()
