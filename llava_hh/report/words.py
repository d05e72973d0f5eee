"""Measurements at the words of captions, packed for the page: influence of every head, and where heads look."""

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llava_hh.attribution.beside import refuse_other_files
from llava_hh.attribution.contrast import influence
from llava_hh.attribution.summary import WITHOUT
from llava_hh.figures.head_map import READ_OUT_LABELS, SOURCE_LABELS
from llava_hh.files.files import read_json_lines
from llava_hh.files.tensors import read_tensors
from llava_hh.report.folder import ResultFolder, read_form

LARGEST = 2**15 - 1
NOT_MEASURED = -(2**15)


class WordInfluences:
    """Influence of every head on every object word of the captions that an attribution was made of."""

    @classmethod
    def beside(cls, captions: Path, results: ResultFolder) -> "WordInfluences | None":
        """The influences of the attribution beside a file of captions; None where there is none.

        Of several one that zeroed all heads, of the most captions, and by source. Those of labelled words are left out,
        and damaged ones, which `results` notes.
        """
        paths = sorted(captions.parent.glob("*/attribution_result.json"))
        paths = [path for path in paths if path.with_name("ablations.safetensors").is_file()]
        rated = results.each(paths, lambda path: (read_form(path, _fitness), path))
        for _, path in sorted((own for own in rated if own[0]), reverse=True):
            if found := results.each([path], lambda path: read_form(path, lambda content: cls(path, content))):
                return found[0]
        return None

    def __init__(self, path: Path, content: dict) -> None:
        self.path = path.with_name("ablations.safetensors")
        self.read_out, self.settings = content["read_out"], content["settings"]
        ablation = content.get("ablation", "zero")
        self.how = "" if ablation == "zero" else f" ({ablation} ablation)"
        if self.settings.get("renormalise"):
            self.how += " (what a source leaves is scaled to 1)"
        refuse_other_files(path, content)
        log_probs = read_tensors(self.path)
        self.clean, self.heads = log_probs["clean"], log_probs["heads"]  # (word,), (word, layer, head)
        self.sources = {
            name: log_probs[f"{WITHOUT}_{name}"] for name in content.get("sources", {}).get("by_source", ())
        }
        self.rows: dict[object, dict[int, str]] = {}  # by image, the words by their index
        for index, (_, row) in enumerate(read_json_lines(path.with_name("targets.jsonl"))):
            self.rows.setdefault(row["image_id"], {})[index] = row["word"]

    def about(self, results: ResultFolder) -> dict:
        n_layers, n_heads = self.heads.shape[1:]
        unit = READ_OUT_LABELS[self.read_out] + self.how
        size = {"layers": n_layers, "heads": n_heads}
        return {
            "source": results.link(self.path),
            "unit": unit,
            **size,
            "reads": [SOURCE_LABELS[own] for own in self.sources],
        }

    def of(self, image_id: object, words: Sequence[str]) -> list[list] | None:
        """For each word p(word) and the influences, packed, of heads and then of what they read; None where other words
        were measured.

        Captions without a hallucination were not measured; under --released, some tokens are no mention.
        """
        measured = self.rows.get(image_id)
        if not measured or list(measured.values()) != list(words):
            return None
        chosen = list(measured)
        clean, ablated = self.clean[chosen], [self.heads[chosen], *(own[chosen] for own in self.sources.values())]
        values = [influence(clean, own, self.read_out) for own in ablated]  # (word, layer, head) each
        return [
            [float(f"{np.exp(log_p):.6g}"), *(part for own in values for part in pack(own[word]))]
            for word, log_p in enumerate(clean)
        ]


def _fitness(content: dict) -> tuple | None:
    """How well an attribution tells of captions: higher is better; None where it is of labelled words."""
    settings = content["settings"]
    if settings.get("labels"):
        return None
    plain = content.get("ablation", "zero") == "zero" and not settings.get("renormalise")
    return "shortlist" not in content, plain, int(content["n_captions"]), "sources" in content


class WordMaps:
    """The result of `figure words`: where the top heads look at the object words of some captions."""

    @classmethod
    def beside(cls, captions: Path, results: ResultFolder) -> "WordMaps | None":
        """The maps beside a file of captions; None where none were recorded, or where they are damaged."""
        path = captions.parent / "word_maps" / "word_maps.json"
        made = results.each([path] * path.is_file(), lambda path: read_form(path, lambda content: cls(path, content)))
        return next(iter(made), None)

    def __init__(self, path: Path, content: dict) -> None:
        self.path, self.heads, self.settings = path, content["heads"], content["settings"]
        arrays = read_tensors(path.with_suffix(".safetensors"))
        codes, scales, parts = arrays["codes"], short(arrays["scales"]), short(arrays["parts"])
        self.rows, begin, number = {}, 0, 0
        for row in content["captions"]:
            packed = []
            for word in row["words"]:
                end = begin + (row["n_image"] + row["n_prompt"] + word["index"]) * len(self.heads)
                of_word = {"codes": base64_of(codes[begin:end]), "scales": scales[number], "parts": parts[number]}
                packed.append(of_word | {"read": word.get("read")})
                begin, number = end, number + 1
            self.rows[row["image_id"]] = (row, packed)

    def about(self, results: ResultFolder) -> dict:
        return {"source": results.link(self.path), "heads": self.heads}

    def of(self, image_id: object, words: Sequence[str]) -> dict | None:
        """Tokens after the image, the image's grid, and for each word its codes, scales and parts; see word_maps.py."""
        row, packed = self.rows.get(image_id, (None, []))
        if row is None or [word["word"] for word in row["words"]] != list(words):
            return None
        return {name: row[name] for name in ("tokens", "n_prompt", "n_image", "grid")} | {"words": packed}


def pack(values: np.ndarray) -> tuple[float, str]:
    """Values as 16-bit integers in base64, little-endian, and what LARGEST stands for; NOT_MEASURED if not finite."""
    missing = ~np.isfinite(values)
    largest = float(np.abs(np.where(missing, 0, values)).max())
    codes = np.rint(np.where(missing, 0, values) / (largest or 1) * LARGEST)
    return largest, base64_of(np.where(missing, NOT_MEASURED, codes).astype("<i2"))


def base64_of(array: np.ndarray) -> str:
    """The bytes of an array in base64."""
    return base64.b64encode(array.tobytes()).decode()


def short(values: np.ndarray) -> list:
    """Numbers in nested lists, to four digits."""
    return np.vectorize(lambda value: float(f"{value:.4g}"), otypes=[float])(values).tolist()
