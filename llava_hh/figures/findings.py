"""One sentence of what each figure shows, composed from its JSON file alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def _interval(value: Mapping[str, Any], form: str = ".3f") -> str:
    low, high = value["interval"]["mean"]
    return f"{value['mean']:{form}} ({low:{form}} to {high:{form}})"


def _compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """How the first mean stands to the second, and whether their intervals overlap."""
    ends, others = (value["interval"]["mean"] for value in (first, second))
    apart = ends[0] > others[1] or others[0] > ends[1]
    word = (
        "more than"
        if first["mean"] > second["mean"]
        else "less than"
        if first["mean"] < second["mean"]
        else "as much as"
    )
    return f"{word} (intervals {'apart' if apart else 'overlap'})"


def attention_bias(result: Mapping[str, Any]) -> str:
    own, others = (result["groups"][group]["all"] for group in ("hal_heads", "non_hal_heads"))
    after, image = "after_image_mass", "image_mass"
    return (
        f"Where an object word is predicted ({result['n_words']} words of {result['n_captions']} captions), "
        f"hallucination heads look after the image with a mass of {_interval(own[after])}, "
        f"{_compare(own[after], others[after])} non-hallucination heads, {_interval(others[after])}; "
        f"and on the image with {_interval(own[image])}, "
        f"{_compare(own[image], others[image])} those, {_interval(others[image])}."
    )


def attention_inheritance(result: Mapping[str, Any]) -> str:
    own, others, rest = (result["groups"][group] for group in ("hal_heads", "non_hal_heads", "other_heads"))
    return (
        f"Over {result['n_captions']} captions, the text attention of hallucination heads resembles that of the base "
        f"language model with a cosine of {_interval(own)}, {_compare(own, others)} that of non-hallucination heads, "
        f"{_interval(others)}; all other heads: {_interval(rest)}."
    )


def js_divergence(result: Mapping[str, Any]) -> str:
    last = result["steps"][-1]
    own, others = last["hal_heads"], last["non_hal_heads"]
    return (
        f"At step {last['step']} of instruction tuning ({result['n']} captions), hallucination heads have moved from "
        f"the start by {_interval(own)} nats, {_compare(own, others)} non-hallucination heads, {_interval(others)}; "
        f"the median head by {last['percentiles']['50']:.3f}."
    )


def attention_reweight(result: Mapping[str, Any]) -> str:
    """What the weight farthest from 1 does: no weight is picked by its outcome."""
    where = {"after_image": "after the image", "image": "on the image"}[result["span"]]
    alphas = result["alphas"]
    place = max(range(len(alphas)), key=lambda index: abs(alphas[index] - 1))

    def of(point: Mapping[str, Any]) -> str:
        low, high = point["interval"]["CHAIRi"]
        return f"CHAIR_i {point['CHAIRi']:.1%} ({low:.1%} to {high:.1%}), recall {point['recall']:.1%}"

    sentence = (
        f"Over {result['n']} images, untouched: {of(result['hal_heads'][alphas.index(1)])}. With the attention {where} "
        f"of the top {result['settings']['top_k']} heads times {alphas[place]:g}: {of(result['hal_heads'][place])}"
    )
    if result["random_heads"]:
        sentence += f"; of as many random heads: {of(result['random_heads'][place])}"
    return f"{sentence}."


def module_influence(result: Mapping[str, Any]) -> str:
    mha, mlp = (result["modules"][kind] for kind in ("mha", "mlp"))

    def of(module: Mapping[str, Any]) -> str:
        return f"{module['sum']:+.3f} ({module['n_layers_above_0']} of {module['n_layers']} layers above 0)"

    n = result["n_captions"]
    return f"Contrastive influence summed over layers ({n} captions): attention {of(mha)}, MLP {of(mlp)}."


# title, JSON file under the folder of a draw of images, sentence, the wrapper that makes it
FIGURES: list[tuple[str, str, Callable[[dict], str], str]] = [
    ("Module level", "module_influence/module_influence", module_influence, "module_influence"),
    ("Figure 3: attention bias", "attention_bias/attention_bias", attention_bias, "attention_bias"),
    (
        "Figure 4: attention inheritance",
        "attention_inheritance/attention_inheritance",
        attention_inheritance,
        "attention_inheritance",
    ),
    ("Figure 5: change in instruction tuning", "js_divergence/js_divergence", js_divergence, "js_div_in_training"),
    (
        "Figure 6a: less attention after the image",
        "attention_reweight/attention_reweight_after_image",
        attention_reweight,
        "attention_reweight_txt",
    ),
    (
        "Figure 6b: more attention on the image",
        "attention_reweight/attention_reweight_image",
        attention_reweight,
        "attention_reweight_img",
    ),
]


def seen_in(source: Path, result: Mapping[str, Any], sentence: Callable[[dict], str], wrapper: str) -> str:
    """The sentence of a figure's JSON file.

    Raises:
        ValueError: the file has another form; one line that names it and the wrapper that makes it.
    """
    try:
        return sentence(result)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        made = f"make it again: sh bash_scripts/analysis/{wrapper}.sh"
        raise ValueError(f"{source}: not the form of this figure ({error!r}); {made}") from None
