"""Where heads look at each object word of captions, for the report page."""

from typing import Any

from llava_hh.experiments.measures.codes import MOST_READ
from llava_hh.experiments.per_caption import CaptionFigure, Measured
from llava_hh.files.files import write_tensors
from llava_hh.heads import Head


class Words(CaptionFigure):
    """Where heads look at each object word of captions: what the report page shows.

    The first captions with a hallucination are run once more, teacher-forced, and the attention of the top heads at the
    positions that predict object words is kept: one byte for each image token and each token after the image; and which
    tokens they read most, by attention times the norm of the value. Writes
    word_maps.json and word_maps.safetensors. The report finds them in a folder word_maps beside the captions.
    """

    name, label = "word_maps", "word maps"
    top_k, limit, without = 5, 24, "no word maps"
    constants = (f"most_read {MOST_READ}",)

    def prepare(self) -> None:
        from llava_hh.decoding.head_lists import heads_with_text

        self.chosen = heads_with_text(self.teacher.lvlm, self.heads())

    def further(self) -> dict[str, Any]:
        return {"heads": [list(head) for head in self.chosen], "most_read": MOST_READ}

    def measure(self, entry: dict) -> Measured:
        from llava_hh.experiments.measures.word_maps import measure_caption

        row, arrays = measure_caption(self.teacher.lvlm, entry, *self.teacher.prepare(entry), self.chosen)
        return Measured([row], arrays)

    def summarise(self, measured: Measured) -> dict:
        """The content of word_maps.json; writes word_maps.safetensors."""
        from llava_hh.experiments.measures.attention_bias import PARTS

        write_tensors(self.out / "word_maps.safetensors", measured.arrays)
        return {**self.further(), "parts": PARTS, "captions": measured.rows}

    def lines(self, result: dict) -> list[str]:
        words = sum(len(row["words"]) for row in result["captions"])
        heads = ", ".join(str(Head(*head)) for head in result["heads"])
        return [f"{heads} at {words} object words of {len(result['captions'])} captions"]
