"""Figure 6: metrics of captions as the attention of heads on a span is scaled, from a finished comparison."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llava_hh.experiments.per_caption import Figure
from llava_hh.files.files import read_result
from llava_hh.metrics.statistics import METRICS

SPANS = ("after_image", "image")
# what attention_reweight_txt.sh makes
FOLDER = "{result_path}/val2014-{reweight_images|all}-seed{draw_seed|42}/attention_reweight"


class Factors(Figure):
    """Metrics of captions as the attention of heads on a span is scaled (figure 6): from a finished comparison.

    `llava-hh evaluate` makes the comparison, with a method scale:span=...,alpha=... for each factor and, for random
    heads beside them, random:of=... for each. Greedy decoding is the factor 1.
    """

    paper, drawn_by = "REWEIGHT", "attention_reweight"  # the paper's values by span
    profile = {"out": FOLDER, "summary": FOLDER + "/summary_{span}.json"}
    example = "--span after_image --profile mini"

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"attention_reweight_{self.options['span']}"

    def add_flags(self, add: Callable[..., Any]) -> None:
        add("--summary", type=Path, required=True, metavar="FILE", help="summary.json of evaluate")
        add("--span", choices=SPANS, required=True, help="attention on which keys was scaled")

    def content(self) -> tuple[dict, dict]:
        summary = read_result(self.options["summary"])
        content = factors_of(summary, self.options["span"])
        return content, {**summary["settings"], "top_k": content.pop("top_k")}

    def of_paper(self, values: dict) -> dict:
        return values[self.options["span"]]

    def lines(self, result: dict) -> list[str]:
        return [
            f"factor {alpha:g}: CHAIR_i {point['CHAIRi']:.1%}  recall {point['recall']:.1%}  "
            f"mentions {point['mentions']:.1f}"
            for alpha, point in zip(result["alphas"], result["hal_heads"], strict=True)
        ]


def factors_of(summary: Mapping[str, Any], span: str) -> dict:
    """Metrics at each factor on a span, greedy decoding first, of the heads of a list and of random draws.

    Raises:
        ValueError: no factor on that span among the methods, factors on several lists of heads, or random heads at
            some factors only.
    """
    methods, described, where = summary["methods"], summary["settings"]["methods"], f"--span {span}: "
    greedy, model = _point(methods["greedy"]), described["greedy"]["model"]
    scaled, groups, lists = {}, {}, []  # entries by factor; the heads of each factor
    for name, entry in methods.items():
        edit = _scaling(described.get((entry.get("folders") or [name])[0]), span, model)
        if edit is None or entry["n"] != greedy["n"]:
            continue  # another edit, or on some of the images
        if "draws" in entry:
            if groups.setdefault(edit["alpha"], entry) is not entry:
                raise ValueError(f"{where}two groups of random heads at factor {edit['alpha']:g}")
        elif edit["alpha"] in (1, *scaled):
            raise ValueError(f"{where}a factor twice, or 1, which greedy decoding is")
        else:
            scaled[edit["alpha"]] = entry
            lists.append(edit["heads"])
    if not scaled:
        raise ValueError(f"{where}no scale:span={span},alpha=... among the methods of the comparison")
    if any(heads != lists[0] for heads in lists):
        raise ValueError(f"{where}factors on several lists of heads in the comparison; expected one list")
    if missing := [alpha for alpha in scaled if groups and alpha not in groups]:
        raise ValueError(f"{where}random heads at some factors only, not at {missing[0]:g}")
    draws = [groups[alpha]["draws"] for alpha in scaled if groups]
    if len({*map(len, draws)}) > 1:
        raise ValueError(f"{where}another number of random draws at some factors")
    drawn = [{**_point(groups[alpha]), "draws": of_factor} for alpha, of_factor in zip(scaled, draws, strict=False)]
    return {
        "span": span,
        "alphas": [1.0, *scaled],
        "hal_heads": [greedy, *map(_point, scaled.values())],
        "minus_greedy": {f"{alpha:g}": entry["minus_greedy"] for alpha, entry in scaled.items()},
        "random_heads": [{**greedy, "draws": [greedy] * len(draws[0])}, *drawn] if groups else [],
        "n": greedy["n"],
        "top_k": len(lists[0]),
    }


def _scaling(run: Mapping[str, Any] | None, span: str, model: Mapping[str, Any]) -> dict | None:
    """The one intervention of a run, if it scales attention on `span` in that model; None for any other run."""
    if not run or run.get("decoder") or run["model"]["sha256"] != model["sha256"] or len(run["interventions"]) != 1:
        return None
    [edit] = run["interventions"]
    return edit if edit["kind"] == "ScaleAttention" and edit["span"] == span else None


def _point(entry: Mapping[str, Any]) -> dict:
    return {name: entry[name] for name in (*METRICS, "n", "interval")}
