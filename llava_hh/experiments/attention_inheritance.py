"""Is the attention of hallucination heads from text to text still that of the base language model (figure 4)?"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava_hh.experiments.per_caption import CaptionFigure, Found, Measured
from llava_hh.runs.settings import CaptionedSettings

RANKED = ("hal_heads", "non_hal_heads")


@dataclass(frozen=True)
class InheritanceSettings(CaptionedSettings):
    """What decides the similarities: also the base model, and of which heads examples are kept."""

    base_model: dict
    example_heads: list[list[int]]


class Inheritance(CaptionFigure):
    """Likeness of text attention to that of the base language model (figure 4): hallucination heads and others.

    The model sees its own captions with their images, the base language model the same tokens without the image.
    Compared is, head by head, attention among the tokens after the image, by the cosine of the two blocks. Writes
    attention_inheritance.json and its figure. Another --top-k is read off the finished run.

    Differs: the released script takes the first head of each list (top_k 1) and blocks that are not aligned by token.
    """

    name, label, paper = "attention_inheritance", "attention inheritance", "INHERITANCE"
    profile = {"top_k": "{inheritance_top_k}", "base_model": "{base_model}"}

    def add_flags(self, add: Callable[..., Any]) -> None:
        text = "the language model that --model was tuned from"
        add("--base-model", type=Path, metavar="FOLDER", required=True, help=text)

    def prepare(self) -> None:
        from llava_hh.experiments.measures.attention_inheritance import check_vocabulary, load_base, split_heads

        lvlm = self.teacher.lvlm
        self.groups = split_heads((lvlm.n_layers, lvlm.n_heads), *(self.heads(group) for group in RANKED))
        self.firsts = [self.groups[group][0] for group in RANKED]
        self.base = load_base(self.options["base_model"], lvlm)
        check_vocabulary(lvlm, self.base, self.entries)

    def settings(self, captioned: dict[str, Any]) -> InheritanceSettings:
        from llava_hh.runs.identity import identify_checkpoint

        return InheritanceSettings(
            **captioned,
            base_model=identify_checkpoint(self.options["base_model"]),
            example_heads=[list(head) for head in self.firsts],
        )

    def also_said(self) -> dict:
        return {"top_k": self.options["top_k"]}

    def measure(self, entry: dict) -> Measured:
        from llava_hh.experiments.measures.attention_inheritance import text_blocks

        blocks = text_blocks(self.teacher.lvlm.model, self.base, self.teacher.prepare(entry)[-1])
        return Measured(
            [{"image_id": entry["image_id"], "n_tokens": blocks.n_tokens}],
            {"similarity": blocks.similarity().numpy()[None]},
            {"heat_maps": blocks.heat_maps(self.firsts).numpy()},
        )

    def summarise(self, found: Found) -> dict:
        from llava_hh.experiments.measures.attention_inheritance import summarise

        similarity = found.arrays["similarity"]
        return {
            **summarise(similarity, self.groups),
            "examples": self._examples(found.rows[0], similarity[0], found.example["heat_maps"]),
            "n_captions": len(similarity),
        }

    def _examples(self, row: dict, similarity: np.ndarray, maps: np.ndarray) -> dict:
        """Heat maps of the first caption, JSON-ready: of the first head of each list, the model's and the base's.

        Args:
            similarity: (layer, head); maps: (head, model, row, column).
        """
        from llava_hh.experiments.measures.attention_inheritance import tokens_per_cell

        return {
            group: {
                "head": list(head),
                **row,
                "tokens_per_cell": tokens_per_cell(row["n_tokens"]),
                "similarity": float(similarity[*head]),
                "lvlm": own.round(6).tolist(),
                "base": inherited.round(6).tolist(),
            }
            for group, head, (own, inherited) in zip(RANKED, self.firsts, maps.astype(np.float64), strict=True)
        }

    def lines(self, result: dict) -> list[str]:
        found = []
        for group, summary in result["groups"].items():
            low, high = summary["interval"]["mean"]
            similarity = f"similarity {summary['mean']:.3f} ({low:.3f} to {high:.3f})"
            found.append(f"{len(summary['heads'])} {group}: {similarity}, {result['n_captions']} captions")
        return found

    def draw(self, source: Path, out: Path) -> None:
        from llava_hh.figures.attention_inheritance import draw_attention_inheritance

        draw_attention_inheritance(source, out)
