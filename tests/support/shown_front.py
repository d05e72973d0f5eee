"""README's tables of methods and hardware, what the quickstart prints, the paper's claims beside mini's numbers."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_hh.command_line.profiles import read_profile
from llava_hh.figures.paper import ATTENTION_BIAS, INHERITANCE, JS_DIVERGENCE, REWEIGHT
from llava_hh.files.tables import Estimate, Table

COLUMNS = {"CHAIR_s %": "CHAIRs", "CHAIR_i %": "CHAIRi", "recall %": "recall", "repeated %": "repeated"}
NEEDS = re.compile(r"Needs, by estimate.*?: (\d+ GB) of files, (\d+ GB) of GPU memory", re.DOTALL)
MODELS = {"llava-v1.5-7b": "LLaVA-1.5-7B", "llava-v1.5-13b": "LLaVA-1.5-13B", "llava-v1.6-34b": "LLaVA-1.6-34B"}
STEP = re.compile(r'^step (\d) "(.*)"$', re.MULTILINE)


def front(folder: Path) -> Table:
    """The comparison of measured.json in six columns."""
    content = read(folder, "")
    rows, methods = [], content["methods"]
    for name, method in methods.items():
        rates = [Estimate(method[key], method["interval"][key], 100) for key in COLUMNS.values()]
        rows.append([method.get("label", name), *rates, f"{method['relative_time']:.2f}x"])
    run = content["run"]
    note = f"mini, {methods['greedy']['n']} images, 95% bootstrap intervals; both rows of random heads are means of "
    note += f"{len(methods['random heads']['draws'])} draws. Measured on {run['date'][:10]}, CPU, {run['machine']}."
    return Table(["method", *COLUMNS, "time per token"], rows, note)


def hardware(folder: Path) -> Table:
    """What each model needs, as the first lines of its profile in the folder say."""
    rows = [["mini", "1 GB", "no GPU; 2 CPU cores"]]
    for profile, model in MODELS.items():
        comment = (folder / f"{profile}.sh").read_text(encoding="utf-8").replace("\n# ", " ")
        disk, memory = NEEDS.search(comment).groups()
        rows.append([model, disk, f"{memory} of GPU memory"])
    return Table(["model", "disk", "needs (estimates, but for mini)"], rows)


def steps(script: Path) -> str:
    """The headings that the quickstart prints, and its last line."""
    profile = read_profile("mini")
    lines = [f"== {number} of 5: {what}" for number, what in STEP.findall(script.read_text(encoding="utf-8"))]
    lines += [f"Open .../{profile['result_path']}/report.html in a browser: the heads, and captions word by word."]
    text = re.sub(r"\$(\w+)", lambda name: profile[name[1]], "\n".join(lines))
    return f"```text\n{text}\n```"


def claims(folder: Path) -> Table:
    """One row a claim: the paper's values for LLaVA-1.5-7B, mini's, and whether mini agrees."""
    rows = [[claim, paper, mini, agrees] for claim, paper, mini, agrees in (*of_methods(folder), *of_figures(folder))]
    note = "The paper's values are read off its figures. *Not shown*: it points that way, but the intervals overlap."
    return Table(["the paper's claim", "the paper, LLaVA-1.5-7B", "mini", "does mini agree?"], rows, note)


def of_methods(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    methods = read(folder, "")["methods"]
    [adhh] = (method for method in methods.values() if method.get("kind") == "adhh")
    greedy, random = methods["greedy"], methods["random heads, as often active"]
    published = REWEIGHT["after_image"]
    low, high = adhh["minus_greedy"]["CHAIRi"]["interval"]["difference"]
    by = _percent(adhh["minus_greedy"]["CHAIRi"]["difference"], [low, high], "+.1f")
    yield (
        "less text attention of hallucination heads lowers CHAIR_i",
        f"{published['hal_heads'][0]:.1%} to {published['hal_heads'][-1]:.1%}, factor 0 (figure 6a)",
        f"{greedy['CHAIRi']:.1%} to {adhh['CHAIRi']:.1%}, AD-HH; {by} points",
        _verdict(high < 0, adhh["minus_greedy"]["CHAIRi"]["difference"] < 0),
    )
    yield (
        "random heads do not",
        f"{published['random_heads'][0]:.1%} to {published['random_heads'][-1]:.1%} (figure 6a)",
        f"{greedy['CHAIRi']:.1%} to {random['CHAIRi']:.1%}, heads that fire as often",
        _verdict(random["CHAIRi"] >= greedy["CHAIRi"]),
    )
    tuned = read(folder, "_targeted_finetune")["methods"]
    hal, others = tuned["tfhh"], tuned["random_heads_tuned"]
    yield (
        "TF-HH lowers CHAIR_i, and random heads do not",
        "",
        f"{_rate(hal)}, random heads {_rate(others)}, greedy decoding {_rate(tuned['greedy'])}",
        _verdict(hal["interval"]["CHAIRi"][1] < others["interval"]["CHAIRi"][0], hal["CHAIRi"] < others["CHAIRi"]),
    )


def of_figures(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    groups = read(folder, "_attention_bias")["groups"]
    for key, where, sign in (("after_image_mass", "after the image", 1), ("image_mass", "on the image", -1)):
        hal, others = (groups[group]["all"][key] for group in ("hal_heads", "non_hal_heads"))
        published = [f"{ATTENTION_BIAS[group][key]}" for group in ("hal_heads", "non_hal_heads")]
        yield (
            f"figure 3: hallucination heads look {where} {'more' if sign > 0 else 'less'} than other heads",
            " and ".join(published),
            f"{_mean(hal)} and {_mean(others)}",
            _verdict(*_is_more(hal, others, sign)),
        )
    groups = read(folder, "_attention_inheritance")["groups"]
    hal, others = groups["hal_heads"], groups["non_hal_heads"]
    low, high = INHERITANCE["range_of_means"]
    rest = groups["other_heads"]["mean"]
    yield (
        "figure 4: they resemble the base model's heads more than non-hallucination heads do",
        f"both between {low:.2f} and {high:.2f}",
        f"{_mean(hal)} and {_mean(others)}; all other heads {rest:.3f}",
        _against_rest(_verdict(*_is_more(hal, others)), hal["mean"] > rest),
    )
    last = read(folder, "_js_divergence")["steps"][-1]
    hal, others = last["hal_heads"], last["non_hal_heads"]
    median = last["percentiles"]["50"]
    yield (
        "figure 5: they change less in instruction tuning than non-hallucination heads do, nats",
        f"{JS_DIVERGENCE['hal_heads'][-1]} and {JS_DIVERGENCE['non_hal_heads'][-1]}",
        f"{_mean(hal)} and {_mean(others)}; the median head {median:.3f}",
        _against_rest(_verdict(*_is_more(hal, others, -1)), hal["mean"] < median),
    )
    attention, mlp = (read(folder, "_module_influence")["modules"][name]["sum"] for name in ("mha", "mlp"))
    yield (
        "attention modules cause more hallucination than MLP modules",
        '"MHA more than MLP" (abstract)',
        f"{attention:+.3f} and {mlp:+.3f}, contrastive influence summed over layers",
        _verdict(attention > mlp),
    )


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"measured{name}.json").read_text(encoding="utf-8"))


def _verdict(holds: bool, points_there: bool = False) -> str:
    return "yes" if holds else "not shown" if points_there else "**no**"


def _against_rest(verdict: str, holds: bool) -> str:
    """The verdict, restricted where the claim holds against the listed heads, but not against the rest of the model."""
    return verdict if holds or verdict != "yes" else "yes, only against non-hallucination heads"


def _is_more(first: Mapping[str, Any], second: Mapping[str, Any], sign: int = 1) -> tuple[bool, bool]:
    """Whether the first mean is more (sign 1) or less (-1) than the second: with intervals apart, and at all."""
    low, high = (first, second) if sign < 0 else (second, first)
    return low["interval"]["mean"][1] < high["interval"]["mean"][0], low["mean"] < high["mean"]


def _mean(value: Mapping[str, Any]) -> str:
    return Estimate(value["mean"], value["interval"]["mean"], form=".3f")


def _rate(method: Mapping[str, Any]) -> str:
    return _percent(method["CHAIRi"], method["interval"]["CHAIRi"]).replace(" (", "% (")


def _percent(value: float, interval: list[float], form: str = ".1f") -> str:
    return Estimate(value, interval, 100, form)
