"""Attention mass on image and text, of hallucination heads and others, where an object word is predicted (figure 3)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava_hh.experiments.per_caption import CaptionFigure, Found, Measured
from llava_hh.runs.settings import CaptionedSettings

GROUPS = ("hal_heads", "non_hal_heads")


@dataclass(frozen=True)
class BiasSettings(CaptionedSettings):
    """What decides the attention masses: also of which heads they are."""

    heads: dict[str, list]


class Bias(CaptionFigure):
    """Attention mass on image and text where an object word is predicted (figure 3): hallucination heads and others.

    Writes attention_bias.json and its figure. The parts of a head's attention are the image, the question after it, the
    answer so far, and the rest (system prompt, BOS); they sum to 1.
    """

    name, label, paper = "attention_bias", "attention bias", "ATTENTION_BIAS"
    profile = {"top_k": "{bias_top_k}"}

    def prepare(self) -> None:
        from llava_hh.decoding.head_lists import heads_with_text

        self.groups = {group: heads_with_text(self.teacher.lvlm, self.heads(group)) for group in GROUPS}

    def settings(self, captioned: dict[str, Any]) -> BiasSettings:
        listed = {group: [list(head) for head in heads] for group, heads in self.groups.items()}
        return BiasSettings(**captioned, heads=listed)

    def measure(self, entry: dict) -> Measured:
        from llava_hh.experiments.measures.attention_bias import attention_parts

        targets, positions, batch = self.teacher.prepare(entry)
        both = [head for heads in self.groups.values() for head in heads]
        [parts] = attention_parts(self.teacher.lvlm, batch, [positions], both)
        rows = [{"image_id": entry["image_id"], **target.row()} for target in targets]
        return Measured(rows, {"parts": parts.numpy()})

    def summarise(self, found: Found) -> dict:
        from llava_hh.experiments.measures.attention_bias import summarise_group

        image_ids = np.array([row["image_id"] for row in found.rows])
        split = np.split(found.arrays["parts"], [len(self.groups[GROUPS[0]])], axis=1)
        return {
            "groups": {
                group: summarise_group(parts, found.rows, image_ids, self.groups[group])
                for group, parts in zip(GROUPS, split, strict=True)
            },
            "n_words": len(found.rows),
            "n_captions": len(self.entries),
        }

    def lines(self, result: dict) -> list[str]:
        means = {group: summary["all"] for group, summary in result["groups"].items()}
        return [
            f"{group}: after the image {own['after_image_mass']['mean']:.3f}, image {own['image_mass']['mean']:.3f}"
            for group, own in means.items()
        ]

    def draw(self, source: Path, out: Path) -> None:
        from llava_hh.figures.attention_bias import draw_attention_bias

        draw_attention_bias(source, out)
