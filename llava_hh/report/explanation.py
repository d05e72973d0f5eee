"""One explained image as a page: its captions, the heads behind each word, where these look, and when heads fired."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL.Image import Image

from llava_hh.experiments.measures.codes import encode_weights
from llava_hh.figures.head_map import READ_OUT_LABELS
from llava_hh.heads import Head
from llava_hh.report.images import shrunk_uri
from llava_hh.report.render import data_of, fill
from llava_hh.report.words import base64_of, pack, short

SCRIPTS = ("grid.js", "words.js", "card.js", "explanation.js")
EDGE = 768  # longest side of the picture, in pixels
SHOWN = 5  # heads of each word in the table
PARTS = ("image_mass", "question_mass", "generated_mass", "rest_mass")
END = "(end)"


def render_explanation(content: Mapping[str, Any], picture: Image, numbers: str) -> str:
    """The page of an explained image.

    Args:
        content: of explanation.json; picture: RGB.
        numbers: the JSON file, as the page links it.
    """
    captions, name = content["captions"], content["image"]
    methods = [_about(caption, numbers) for caption in captions]
    shown = {"id": name, "key": name, "captions": [_caption(caption, content) for caption in captions]}
    data = {"sets": [{"name": name, "methods": methods, "images": [shown]}]}
    judged = "No truth was given, so no word counts as hallucinated."
    if content["truth"] is not None:
        judged = f"Given as in the image: {', '.join(content['truth']) or 'nothing'}."
    page = {
        "image": name,
        "numbers": numbers,
        "heads": ", ".join(str(Head(*head)) for head in content["heads"]),
        "threshold": f"{content['threshold']:g}",
        "judged": judged,
        "word_heads": ["caption", "word", "in the image", "probability", "strongest heads and their influence"],
        "word_rows": [_cells(caption["label"], word) for caption in captions for word in caption["words"]],
        "fired": [_fired(caption, own) for caption in captions for own in caption["fired"]],
        "data": data_of({**data, "pictures": {name: shrunk_uri(picture, EDGE)}}),
    }
    return fill("explanation.html.j2", page, SCRIPTS)


def _about(caption: Mapping[str, Any], numbers: str) -> dict:
    if not caption["words"]:
        return {"label": caption["label"], "source": numbers, "influence": None, "maps": None}
    influence = caption["words"][0]["influence"]
    size = {"layers": len(influence), "heads": len(influence[0])}
    unit = {"source": numbers, "unit": READ_OUT_LABELS["probability"], "reads": []}
    return {"label": caption["label"], "source": numbers, "influence": {**unit, **size}, "maps": {"source": numbers}}


def _caption(caption: Mapping[str, Any], content: Mapping[str, Any]) -> dict:
    """What the scripts of the page read of a caption."""
    words, n_image, asked = caption["words"], content["n_image"], content["prompt_tokens"]
    keys = ("word", "node", "start", "end", "hallucinated")
    tokens = {"tokens": [*asked, *caption["tokens"]], "n_prompt": len(asked), "n_image": n_image}
    return {
        "text": caption["caption"],
        "mentions": [[word[key] for key in keys] for word in words],
        "influence": [[word["probability"], *pack(np.array(word["influence"], float))] for word in words],
        "maps": {**tokens, "grid": content["grid"], "words": [_looks(word["looks"], n_image) for word in words]},
    }


def _looks(looks: list[dict], n_image: int) -> dict:
    codes, scales = encode_weights(np.array([[*look["on_image"], *look["on_text"]] for look in looks]), n_image)
    parts = [[look[part] for part in PARTS] for look in looks]
    read = [look["read"] for look in looks]
    return {
        "heads": [look["head"] for look in looks],
        "codes": base64_of(codes),
        "scales": short(scales),
        "parts": parts,
        "read": read,
    }


def _cells(label: str, word: Mapping[str, Any]) -> list[str]:
    values = np.array(word["influence"], float)
    order = np.argsort(-values, axis=None, kind="stable")[:SHOWN]
    heads = [Head(*map(int, np.unravel_index(index, values.shape))) for index in order]
    judged = {None: "", True: "no", False: "yes"}[word["hallucinated"]]
    influences = ", ".join(f"{head} {values[head]:+.3f}" for head in heads)
    return [label, word["word"], judged, f"{word['probability']:.3f}", influences]


def _fired(caption: Mapping[str, Any], own: Mapping[str, Any]) -> dict:
    """A head, how often it fired, and the caption's tokens, each with whether it fired there."""
    texts = [*caption["tokens"], *[f" {END}"] * (caption["finish_reason"] == "stop")]
    off = {*own["tokens"]}
    count = f"at {len(off)} of {len(texts)} tokens"
    return {
        "head": str(Head(*own["head"])),
        "count": count,
        "tokens": [(text, i in off) for i, text in enumerate(texts)],
    }
