"""`removal_released`: what the paper's code removes from Llama-3.2-Vision, as a kind of method."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_hh.decoding.grammar import Spec
from llava_hh.decoding.making import Material, Member, folder_name, heads_for
from llava_hh.decoding.method import Answers, generate_greedily
from llava_hh.decoding.registry import register_method
from llava_hh.heads import Head
from llava_hh.models.lvlm import Batch, Lvlm
from llava_hh.newer_models.released import check_released, remove_as_released
from llava_hh.runs.settings import digest_of

KIND = "removal_released"


@dataclass(frozen=True)
class RemovedAsReleased:
    """Greedy decoding with other modules zeroed than those of `heads`, see `remove_as_released`."""

    heads: tuple[Head, ...]
    name: str
    label: str = "heads removed, released indexing"
    kind: str = KIND
    checkpoint: Path | None = None

    def describe(self) -> dict[str, Any]:
        heads = [list(head) for head in self.heads]
        return {"interventions": [{"kind": "RemoveAsReleased", "heads": heads}], "decoder": None}

    def answer(self, lvlm: Lvlm, batch: Batch, max_new_tokens: int) -> Answers:
        with remove_as_released(lvlm.model, self.heads):
            return Answers(generate_greedily(lvlm, batch, max_new_tokens), {})


def make(spec: Spec, material: Material) -> Member:
    """The method of a text.

    Raises:
        ValueError: another model than Llama-3.2-Vision; a head list that does not fit.
    """
    check_released(material.lvlm.model)
    heads = tuple(heads_for(spec, material))
    name = folder_name([[KIND, f"top_k={len(heads)}"]], [digest_of([list(head) for head in heads])[:8]])
    label = str(spec.fields.get("label", RemovedAsReleased.label))
    return Member(RemovedAsReleased(heads, name, label), spec, spec.fields.get("limit"))


register_method(KIND, make)
