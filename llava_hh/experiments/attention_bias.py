"""Attention mass on image and text, of hallucination heads and others, where an object word is predicted (figure 3)."""

from typing import Any

import numpy as np

from llava_hh.experiments.per_caption import CaptionFigure, Measured

GROUPS = ("hal_heads", "non_hal_heads")
SAID = ("after_image_mass", "image_mass")  # parts that are printed


class Bias(CaptionFigure):
    """Attention mass on image and text where an object word is predicted (figure 3): hallucination heads and others.

    Writes attention_bias.json and its figure. The parts of a head's attention are the image, the question after it, the
    answer so far, and the rest (system prompt, BOS); they sum to 1.
    """

    name, label, paper, drawn_by = "attention_bias", "attention bias", "ATTENTION_BIAS", "attention_bias"
    profile = {"top_k": "{bias_top_k}"}

    def prepare(self) -> None:
        from llava_hh.decoding.head_lists import heads_with_text

        self.groups = {group: heads_with_text(self.teacher.lvlm, self.heads(group)) for group in GROUPS}

    def further(self) -> dict[str, Any]:
        return {"heads": {group: [list(head) for head in heads] for group, heads in self.groups.items()}}

    def measure(self, entry: dict) -> Measured:
        from llava_hh.experiments.measures.attention_bias import attention_parts

        targets, positions, batch = self.teacher.prepare(entry)
        heads = [head for group in GROUPS for head in self.groups[group]]
        [parts] = attention_parts(self.teacher.lvlm, batch, [positions], heads)
        rows = [{"image_id": entry["image_id"], **target.row()} for target in targets]
        return Measured(rows, {"parts": parts.numpy()})

    def summarise(self, measured: Measured) -> dict:
        from llava_hh.experiments.measures.attention_bias import summarise_group

        image_ids = np.array([row["image_id"] for row in measured.rows])
        split = np.split(measured.arrays["parts"], [len(self.groups[GROUPS[0]])], axis=1)
        groups = {}
        for parts, (group, heads) in zip(split, self.groups.items(), strict=True):
            groups[group] = summarise_group(parts, measured.rows, image_ids, heads)
        return {"groups": groups, "n_words": len(measured.rows), "n_captions": len(self.entries)}

    def lines(self, result: dict) -> list[str]:
        masses = {group: [summary["all"][part]["mean"] for part in SAID] for group, summary in result["groups"].items()}
        return [f"{group}: after the image {after:.3f}, image {image:.3f}" for group, (after, image) in masses.items()]
