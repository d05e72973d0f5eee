"""One sentence on each figure, composed from its JSON file alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_hh.files.files import read_result
from llava_hh.files.tables import Estimate


def _mean(value: Mapping[str, Any]) -> str:
    return Estimate(value["mean"], value["interval"]["mean"], form=".3f")


def _compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Whether the first mean is more or less than the second, and whether their intervals overlap."""
    ends, others = (value["interval"]["mean"] for value in (first, second))
    apart = ends[0] > others[1] or others[0] > ends[1]
    sign = (first["mean"] > second["mean"]) - (first["mean"] < second["mean"])
    words = {1: "more than", 0: "as much as", -1: "less than"}
    return f"{words[sign]} (intervals {'apart' if apart else 'overlap'})"


def _in_their_layers(result: Mapping[str, Any]) -> str:
    """How hallucination heads differ from others of their layers, which results of earlier versions don't say."""
    difference = result.get("difference_same_layers")
    if not difference:
        return ""
    estimate = Estimate(difference["mean"], difference["interval"]["mean"], form="+.3f")
    return f"; minus other heads of their own layers: {estimate}"


def attention_bias(result: Mapping[str, Any]) -> str:
    hal, others = (result["groups"][group]["all"] for group in ("hal_heads", "non_hal_heads"))
    after, image = "after_image_mass", "image_mass"
    return (
        f"Where an object word is predicted ({result['n_words']} words of {result['n_captions']} captions), "
        f"hallucination heads look after the image with a mass of {_mean(hal[after])}, "
        f"{_compare(hal[after], others[after])} non-hallucination heads, {_mean(others[after])}; "
        f"and on the image with {_mean(hal[image])}, "
        f"{_compare(hal[image], others[image])} those, {_mean(others[image])}."
    )


def attention_inheritance(result: Mapping[str, Any]) -> str:
    hal, others, rest = (result["groups"][group] for group in ("hal_heads", "non_hal_heads", "other_heads"))
    return (
        f"Over {result['n_captions']} captions, the text attention of hallucination heads resembles that of the base "
        f"language model with a cosine of {_mean(hal)}, {_compare(hal, others)} that of non-hallucination heads, "
        f"{_mean(others)}; all other heads: {_mean(rest)}{_in_their_layers(result)}."
    )


def js_divergence(result: Mapping[str, Any]) -> str:
    last = result["steps"][-1]
    hal, others = last["hal_heads"], last["non_hal_heads"]
    return (
        f"At step {last['step']} of instruction tuning ({result['n']} captions), hallucination heads have moved from "
        f"the start by {_mean(hal)} nats, {_compare(hal, others)} non-hallucination heads, {_mean(others)}; "
        f"the median head by {last['percentiles']['50']:.3f}{_in_their_layers(last)}."
    )


def attention_reweight(result: Mapping[str, Any]) -> str:
    """The effect of the factor farthest from 1, so that no factor is picked by its outcome."""
    where = {"after_image": "after the image", "image": "on the image"}[result["span"]]
    alphas, points, random_heads = (result[name] for name in ("alphas", "hal_heads", "random_heads"))
    farthest = max(range(len(alphas)), key=lambda index: abs(alphas[index] - 1))

    def of(point: Mapping[str, Any]) -> str:
        low, high = point["interval"]["CHAIRi"]
        return f"CHAIR_i {point['CHAIRi']:.1%} ({low:.1%} to {high:.1%}), recall {point['recall']:.1%}"

    beside = f"; of as many random heads: {of(random_heads[farthest])}" if random_heads else ""
    return (
        f"Over {result['n']} images, untouched: {of(points[alphas.index(1)])}. With the attention {where} of the top "
        f"{result['settings']['top_k']} heads times {alphas[farthest]:g}: {of(points[farthest])}{beside}."
    )


def module_influence(result: Mapping[str, Any]) -> str:
    mha, mlp = (result["modules"][kind] for kind in ("mha", "mlp"))

    def of(module: Mapping[str, Any]) -> str:
        return f"{module['sum']:+.3f} ({module['n_layers_above_0']} of {module['n_layers']} layers above 0)"

    captions = f"{result['n_captions']} captions"
    return f"Contrastive influence summed over layers ({captions}): attention {of(mha)}, MLP {of(mlp)}."


@dataclass(frozen=True)
class Finding:
    """A figure of the paper.

    title: that of its section; name: that of its JSON file, and of its wrapper and folder where these are empty;
    sentence: makes a sentence of the file's content.
    """

    title: str
    name: str
    sentence: Callable[[dict], str]
    wrapper: str = ""
    folder: str = ""

    @property
    def command(self) -> str:
        """The command that makes it."""
        return f"sh bash_scripts/analysis/{self.wrapper or self.name}.sh"

    @property
    def file(self) -> str:
        """Its JSON file, under the folder of a draw of images."""
        return f"{self.folder or self.name}/{self.name}.json"

    def seen_in(self, source: Path) -> str:
        """The sentence of a JSON file, and a note where the paper's values are drawn beside ours.

        Raises:
            ValueError: the file has another form; one line that names it and the wrapper that makes it.
        """
        result = read_result(source)
        try:
            return self.sentence(result) + (" Hollow marks: the paper." if "paper" in result else "")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            again = f"make it again: {self.command}"
            raise ValueError(f"{source}: not the form of this figure ({error!r}); {again}") from None


FACTORS = "attention_reweight"
TXT, IMG = ((f"{FACTORS}_{ending}", FACTORS) for ending in ("txt", "img"))  # wrapper and folder
FIGURES = [
    Finding("Module level", "module_influence", module_influence),
    Finding("Figure 3: attention bias", "attention_bias", attention_bias),
    Finding("Figure 4: attention inheritance", "attention_inheritance", attention_inheritance),
    Finding("Figure 5: change in instruction tuning", "js_divergence", js_divergence, "js_div_in_training"),
    Finding("Figure 6a: less attention after the image", f"{FACTORS}_after_image", attention_reweight, *TXT),
    Finding("Figure 6b: more attention on the image", f"{FACTORS}_image", attention_reweight, *IMG),
]
