"""Figure 6: metrics of captions as the attention of heads on a span is scaled, from a finished comparison."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llava_hh.experiments.per_caption import Figure
from llava_hh.files.files import read_result
from llava_hh.metrics.statistics import METRICS
from llava_hh.runs.run import make_folder, processes

SPANS = ("after_image", "image")
# what attention_reweight_txt.sh makes
FOLDER = "{result_path}/val2014-{reweight_images|all}-seed{draw_seed|42}/attention_reweight"


class Factors(Figure):
    """Metrics of captions as the attention of heads on a span is scaled (figure 6): from a finished comparison.

    The comparison is one of `llava-hh evaluate` with a scale:span=...,alpha=... for each factor, and random:of=... for
    each where random heads are to stand beside. Greedy decoding is the factor 1.
    """

    paper = "REWEIGHT"  # by span
    profile = {"out": FOLDER, "summary": FOLDER + "/summary_{span}.json"}
    example = "--span after_image --profile mini_quick"

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"attention_reweight_{self.options['span']}"

    def add_flags(self, add: Callable[..., Any]) -> None:
        add("--summary", type=Path, required=True, metavar="FILE", help="summary.json of evaluate")
        add("--span", choices=SPANS, required=True, help="attention on which keys was scaled")

    def run(self, out: Path, options: Mapping[str, Any]) -> dict | None:
        self.options = options
        summary = read_result(options["summary"])
        content = factors_of(summary, options["span"])
        if not processes().is_main:
            return None
        make_folder(out)
        settings = {**summary["settings"], "top_k": content.pop("top_k")}
        return self.write(out, content, settings)

    def of_paper(self, values: dict) -> dict:
        return values[self.options["span"]]

    def lines(self, result: dict) -> list[str]:
        return [
            f"factor {alpha:g}: CHAIR_i {point['CHAIRi']:.1%}  recall {point['recall']:.1%}  "
            f"mentions {point['mentions']:.1f}"
            for alpha, point in zip(result["alphas"], result["hal_heads"], strict=True)
        ]

    def draw(self, source: Path, out: Path) -> None:
        from llava_hh.figures.attention_reweight import draw_attention_reweight

        draw_attention_reweight(source, out)


def factors_of(summary: Mapping[str, Any], span: str) -> dict:
    """Metrics at each factor on a span, greedy decoding first, of the heads of a list and of random draws.

    Raises:
        ValueError: no factor on that span among the methods, factors on several lists of heads, or random heads at
            some factors only.
    """
    methods, described = summary["methods"], summary["settings"]["methods"]
    model = described["greedy"]["model"]["sha256"]

    def scaled(name: str, n: int) -> dict | None:
        run = described.get(name, {})
        if run.get("decoder") or run.get("model", {}).get("sha256") != model or n != methods["greedy"]["n"]:
            return None  # under a decoder, of a fine-tuned model, or on some of the images
        edits = run["interventions"]
        is_scaled = len(edits) == 1 and edits[0]["kind"] == "ScaleAttention" and edits[0]["span"] == span
        return edits[0] if is_scaled else None

    own = {name: edit for name, entry in methods.items() if "draws" not in entry and (edit := scaled(name, entry["n"]))}
    if not own:
        raise ValueError(f"--span {span}: no scale:span={span},alpha=... among the methods of the comparison")
    if len({tuple(map(tuple, edit["heads"])) for edit in own.values()}) > 1:
        raise ValueError(f"--span {span}: factors on several lists of heads in the comparison; expected one list")
    groups: dict[float, dict] = {}
    for entry in methods.values():
        edit = scaled(entry["folders"][0], entry["n"]) if entry.get("folders") else None
        if edit and groups.setdefault(edit["alpha"], entry) is not entry:
            raise ValueError(f"--span {span}: two groups of random heads at factor {edit['alpha']:g}")
    greedy = _point(methods["greedy"])
    alphas = [1.0, *(edit["alpha"] for edit in own.values())]
    if len({*alphas}) < len(alphas):
        raise ValueError(f"--span {span}: a factor twice, or 1, which greedy decoding is")
    drawn = []
    if groups:
        if missing := [alpha for alpha in alphas[1:] if alpha not in groups]:
            raise ValueError(f"--span {span}: random heads at some factors only, not at {missing[0]:g}")
        n_draws = len(groups[alphas[1]]["draws"])
        if any(len(groups[alpha]["draws"]) != n_draws for alpha in alphas[1:]):
            raise ValueError(f"--span {span}: another number of random draws at some factors")
        drawn = [{**greedy, "draws": [greedy] * n_draws}]
        drawn += [{**_point(groups[alpha]), "draws": groups[alpha]["draws"]} for alpha in alphas[1:]]
    return {
        "span": span,
        "alphas": alphas,
        "hal_heads": [greedy, *(_point(methods[name]) for name in own)],
        "minus_greedy": {f"{edit['alpha']:g}": methods[name]["minus_greedy"] for name, edit in own.items()},
        "random_heads": drawn,
        "n": greedy["n"],
        "top_k": len(next(iter(own.values()))["heads"]),
    }


def _point(entry: Mapping[str, Any]) -> dict:
    return {name: entry[name] for name in (*METRICS, "n", "interval")}
