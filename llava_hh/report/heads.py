"""The head map's data: every head's score with its interval, and other measurements of it."""

import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from llava_hh.attribution.summary import counted_words
from llava_hh.figures.head_map import READ_OUT_LABELS
from llava_hh.report.folder import ResultFolder, read_form

ATTRIBUTION = "attribution_result.json"
NOT_FINITE = "not finite"
DIGITS = 6  # significant, of scores in the page


def find_heads(results: ResultFolder) -> dict | None:
    """The first attribution of the folder; None where there is none.

    Returns: `source` and `draw`; `scores`, `low`, `high` (layer, head); the head lists `hal` and `non_hal`, best first;
        `words` (how many), `unit` and `ablation` of the scores; `stability` in lines; and `more`: further numbers of
        the same draw, each with `label`, `source` and `values` (layer, head).
    """

    def first(path: Path) -> dict:
        heads = read_form(path, _scores) | {"source": results.link(path), "draw": results.draw(path)}
        more = [values | {"source": heads["source"]} for values in read_form(path, _of_words)]
        for name, label, read in (
            ("attention_inheritance", "similarity to the base model (cosine)", lambda content: content["similarity"]),
            ("js_divergence", "change in tuning, last step (JS divergence, nats)", _last_step),
            ("attention_bias", "attention after the image (mass)", _mass("after_image_mass", heads["scores"])),
            ("attention_bias", "attention on the image (mass)", _mass("image_mass", heads["scores"])),
        ):
            beside = (file for file in results.named(f"{name}.json") if file.is_relative_to(path.parent.parent))

            def values(source: Path, label: str = label, read: Callable[[dict], list] = read) -> dict:
                of_heads = read_form(source, lambda content: rounded(read(content)))
                return {"label": label, "source": results.link(source), "values": of_heads}

            more += results.each(islice(beside, 1), values)
        return heads | {"more": more}

    paths = iter(results.named(ATTRIBUTION))
    return next((heads for path in paths for heads in results.each([path], first)), None)


def rounded(value: object) -> object:
    """Numbers in nested lists, rounded to DIGITS; what is not finite is the text "not finite", and None stays."""
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    if value is None or math.isfinite(value):
        return None if value is None else float(f"{value:.{DIGITS}g}")
    return NOT_FINITE


def _scores(content: dict) -> dict:
    low, high = content["interval"]["contrastive_influence"]
    halves = content["stability"]["half_overlap"] if "stability" in content else {}
    return {
        "scores": rounded(content["contrastive_influence"]),
        "low": rounded(low),
        "high": rounded(high),
        "hal": content["hal_heads"],
        "non_hal": content.get("non_hal_heads", []),
        "words": counted_words(content),
        "unit": READ_OUT_LABELS[content["read_out"]],
        "ablation": content.get("ablation", "zero"),
        "stability": [
            f"top {k}: {shared['mean']:.0%} in common between halves of the images ({shared['chance']:.1%} by chance)"
            for k, shared in halves.items()
        ],
    }


def _of_words(content: dict) -> list[dict]:
    values = {words: rounded(content[f"influence_{words}"]) for words in ("hallucinated", "true")}
    return [{"label": f"influence on {words} words", "values": of_words} for words, of_words in values.items()]


def _last_step(content: dict) -> list:
    return content["steps"][-1]["all_heads"]


def _mass(part: str, like: list) -> Callable[[dict], list]:
    """Reads the mean over words of the heads that were looked at; None for the others of a map of that shape."""

    def read(content: dict) -> list:
        values = [[None] * len(layer) for layer in like]
        for entry in (entry for group in content["groups"].values() for entry in group["heads"]):
            layer, head = entry["head"]
            values[layer][head] = entry[part]
        return values

    return read
