"""Is the attention of hallucination heads from text to text still that of the base language model (figure 4)?"""

from collections.abc import Callable
from typing import Any

import numpy as np

from llava_hh.experiments.per_caption import CaptionFigure, Measured
from llava_hh.files.tables import Estimate
from llava_hh.models.hub_id import checkpoint

RANKED = ("hal_heads", "non_hal_heads")


class Inheritance(CaptionFigure):
    """Likeness of text attention to that of the base language model (figure 4): hallucination heads and others.

    The model sees its own captions with their images, the base language model the same tokens without the image.
    For each head, attention among the tokens after the image is compared by the cosine of the two blocks. A control
    compares hallucination heads with the other heads of their own layers (same_layers). Writes
    attention_inheritance.json and its figure. A finished run answers for another --top-k without new work.

    Captions are all, hallucinating or not, in order, as in the released script; it takes the first head of each list.

    Differs: its blocks are not aligned by token, and one token short.
    """

    name, label, paper = "attention_inheritance", "attention inheritance", "INHERITANCE"
    drawn_by, hallucinating = "attention_inheritance", False
    profile = {"top_k": "{inheritance_top_k}", "base_model": "{base_model}"}

    def add_flags(self, add: Callable[..., Any]) -> None:
        text = "the language model that --model was tuned from"
        add("--base-model", type=checkpoint, metavar="CHECKPOINT", required=True, help=text)

    def prepare(self) -> None:
        from llava_hh.experiments.measures.attention_inheritance import check_vocabulary, load_base, split_heads

        lvlm = self.teacher.lvlm
        self.groups = split_heads((lvlm.n_layers, lvlm.n_heads), *(self.heads(group) for group in RANKED))
        self.firsts = [self.groups[group][0] for group in RANKED]
        self.base = load_base(self.options["base_model"], lvlm)
        check_vocabulary(self.teacher, self.base, self.entries)

    def further(self) -> dict[str, Any]:
        from llava_hh.runs.identity import identify_checkpoint

        base = identify_checkpoint(self.options["base_model"])
        return {"base_model": base, "example_heads": [list(head) for head in self.firsts]}

    def also_said(self) -> dict:
        return {"top_k": self.options["top_k"]}

    def measure(self, entry: dict) -> Measured:
        from llava_hh.experiments.measures.attention_inheritance import text_blocks

        blocks = text_blocks(self.teacher.lvlm.model, self.base, self.teacher.prepare(entry)[-1])
        row = {"image_id": entry["image_id"], "n_tokens": blocks.n_tokens}
        heat_maps = {"heat_maps": blocks.heat_maps(self.firsts).numpy()}
        return Measured([row], {"similarity": blocks.similarity().numpy()[None]}, heat_maps)

    def summarise(self, measured: Measured) -> dict:
        from llava_hh.experiments.measures.attention_inheritance import summarise, tokens_per_cell

        similarity, first = measured.arrays["similarity"], measured.rows[0]
        maps = measured.example["heat_maps"].astype(np.float64)  # head model row column
        examples = {
            group: {
                "head": list(head),
                **first,
                "tokens_per_cell": tokens_per_cell(first["n_tokens"]),
                "similarity": float(similarity[0, *head]),
                "lvlm": of_lvlm.round(6).tolist(),
                "base": of_base.round(6).tolist(),
            }
            for group, head, (of_lvlm, of_base) in zip(RANKED, self.firsts, maps, strict=True)
        }
        return {**summarise(similarity, self.groups), "examples": examples, "n_captions": len(similarity)}

    def lines(self, result: dict) -> list[str]:
        from llava_hh.experiments.measures.same_layers import compared_heads

        lines = []
        for group, summary in result["groups"].items():
            similarity = Estimate(summary["mean"], summary["interval"]["mean"], form=".3f")
            lines.append(f"{len(summary['heads'])} {group}: similarity {similarity}, {result['n_captions']} captions")
        if difference := result.get("difference_same_layers"):  # results of earlier versions have none
            hal_heads, rest = (result["groups"][group]["heads"] for group in ("hal_heads", "same_layers"))
            estimate = Estimate(difference["mean"], difference["interval"]["mean"], form=".3f")
            lines.append(f"{len(compared_heads(hal_heads, rest))} hal_heads minus same_layers: difference {estimate}")
        return lines
