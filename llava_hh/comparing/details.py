"""CHAIR in detail: which objects are hallucinated and missed, beside what, and where in the caption."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_hh.comparing.inputs import made_of
from llava_hh.comparing.summary import label_of
from llava_hh.files.files import read_json, write_json
from llava_hh.files.progress import say
from llava_hh.metrics.chair.details import by_category, by_position, co_occurrence
from llava_hh.metrics.chair.nocaps import VARIANT as NOCAPS
from llava_hh.metrics.chair.nocaps import load_classes
from llava_hh.metrics.chair.variants import load_synonyms
from llava_hh.runs.run import make_folder, processes
from llava_hh.runs.scored import RESULT_FILE, read_scored, refuse_stale, truth_of


def result_files(paths: Sequence[Path]) -> dict[str, Path]:
    """The result file of each run, by the name of its folder; a folder of runs stands for all of them, greedy first.

    Raises:
        FileNotFoundError: no result file there.
        ValueError: two runs of one name.
    """
    files: dict[str, Path] = {}
    for path in paths:
        file = path if path.is_file() else path / RESULT_FILE
        below = sorted(path.glob(f"*/{RESULT_FILE}"), key=lambda file: (file.parent.name != "greedy", file.parent.name))
        if not (named := [file] if file.is_file() else below):
            raise FileNotFoundError(f"{path}: expected a {RESULT_FILE}, or a folder of runs that have one")
        for file in named:
            name = file.resolve().parent.name
            if files.setdefault(name, file) is not file:
                raise ValueError(f"two runs are called {name!r}, by their folders; expected different names")
    return files


def explain(files: dict[str, Path]) -> dict[str, Any]:
    """The content of chair_details.json.

    Raises:
        ValueError: runs on other images or by other rules of CHAIR than the first.
    """
    runs, first = {}, None
    for name, path in files.items():
        content = read_json(path)
        refuse_stale(path, content.get("run"))
        sentences, metrics = read_scored(path)
        first = first or truth_of(sentences, metrics)
        if truth_of(sentences, metrics) != first:
            raise ValueError(f"{path}: other images, ground truth or rules of CHAIR than the first run has")
        of_nocaps = metrics["variant"] == NOCAPS
        categories = [label.lower() for label in load_classes()] if of_nocaps else sorted(load_synonyms())
        runs[name] = {
            "label": label_of(name, content),
            "categories": by_category(sentences, categories),
            "co_occurrence": co_occurrence(sentences),
            "positions": by_position(sentences),
        }
    return {"runs": runs, "n": len(first[1]), "variant": first[0]}


def lines(details: dict[str, Any]) -> list[str]:
    """What each run hallucinates most, its strongest pair, and whether hallucination grows along its captions."""
    said = []
    for run in details["runs"].values():
        worst = sorted(run["categories"].items(), key=lambda item: -item[1]["hallucinated"])[:3]
        parts = [f"{name} {n['hallucinated']} of {n['named']}" for name, n in worst if n["hallucinated"]]
        said.append(f"{run['label']}: hallucinated most, in captions that name it: {', '.join(parts) or 'nothing'}")
        if pairs := [pair for pair in run["co_occurrence"] if pair["p_holm"] < 0.05]:
            top = max(pairs, key=lambda pair: pair["n"])
            what = f"{top['hallucinated']} where there is {top['there']}: {top['n']} of {top['n_hallucinated']}"
            said.append(f"  {len(pairs)} pairs beyond chance (Holm), most often {what}, lift {top['lift']:.1f}")
        if gap := run["positions"]["mention"]["later_minus_earlier"]:
            low, high = gap["interval"]["mean"]
            later = f"{gap['mean']:+.2f} places later ({low:+.2f} to {high:+.2f})"
            said.append(f"  hallucinated objects are mentioned {later}")
    return said


def compare_details(captions: Sequence[Path], out: Path) -> Path | None:
    """Explain result files, write chair_details.json into the folder `out`, and print the largest effects.

    Args:
        captions: result files, their folders, or folders of runs.
    Returns: that file, which each of PICTURES draws; None for a process that is not the first.
    Raises:
        FileNotFoundError: no result file in one of them.
        ValueError: two runs of one name, or runs on other images or by other rules of CHAIR than the first.
    """
    if not processes().is_main:
        return None
    files = result_files(captions)
    details = explain(files)
    make_folder(out)
    source = out / "chair_details.json"
    write_json(source, {**details, "run": made_of(files.values())})
    say("\n".join([*lines(details), str(source)]))
    return source
