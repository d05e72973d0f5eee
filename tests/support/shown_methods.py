"""POPE by every method on mini, a row each; and what the kinds of methods cost."""

import json
from pathlib import Path

from llava_hh.comparing.summary import label_of, note_of_left_out
from llava_hh.files.tables import Estimate, Table

KINDS = ("random", "popular", "adversarial")


def pope(folder: Path) -> Table:
    """Accuracy by kind of question, means of F1 and of yes: measured_methods_pope.json, LLaVA's parser."""
    content = json.loads((folder / "measured_methods_pope.json").read_text(encoding="utf-8"))
    rows, run = [], content["run"]
    for name, judges in content["methods"].items():
        by_kind = judges["llava"]
        own = [Estimate(by_kind[kind]["accuracy"], by_kind[kind]["interval"]["accuracy"], 100) for kind in KINDS]
        mean = by_kind["average"]
        rows.append([label_of(name, judges), *own, f"{100 * mean['f1']:.1f}", f"{100 * mean['yes_ratio']:.1f}"])
    n = content["methods"]["greedy"]["llava"]["random"]["n"]
    note = f"Accuracy in percent over {n} questions of each kind, with 95% bootstrap intervals over images; F1 and the "
    note += f"share of yes are means of the three. Measured on {run['date'][:10]}, CPU, {run['machine']}."
    note += note_of_left_out(content["settings"])
    return Table(["method", *KINDS, "F1 %", "yes %"], rows, note)
