"""The module level: influence of whole attention and MLP modules per layer, from a finished attribution."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llava_hh.experiments.per_caption import Figure
from llava_hh.files.files import read_result

COUNTS = ("n_hallucinated_words", "n_true_words", "n_captions", "matched")


class Modules(Figure):
    """Influence of whole attention and MLP modules, layer by layer: from a finished attribution."""

    name = drawn_by = "module_influence"

    def add_flags(self, add: Callable[..., Any]) -> None:
        add("--attribution", type=Path, metavar="FILE", required=True, help="attribution_result.json of attribute")

    def content(self) -> tuple[dict, None]:
        result = read_result(self.options["attribution"])
        if "modules" not in result:
            source = f"--attribution {self.options['attribution']}"
            raise ValueError(f"{source}: no `modules`; expected the result of attribute")
        modules = {kind: summary_of(module) for kind, module in result["modules"].items()}
        return {"modules": modules, **{name: result[name] for name in COUNTS if name in result}}, None

    def lines(self, result: dict) -> list[str]:
        return [
            f"{kind}: sum {module['sum']:+.3f}, largest {module['largest']:+.3f} in layer {module['largest_layer']}, "
            f"{module['n_layers_above_0']} of {module['n_layers']} layers above 0"
            for kind, module in result["modules"].items()
        ]

    def draw(self, source: Path, out: Path) -> None:
        super().draw(self.options["attribution"], out)


def summary_of(module: Mapping[str, Any]) -> dict:
    """Sum and largest value over layers of a kind's contrastive influence, and how many layers are above 0.

    A layer is above 0 where its whole 95% interval is.
    """
    contrast = np.array(module["contrastive_influence"])
    low = np.array(module["interval"]["contrastive_influence"][0])
    return {
        "sum": float(contrast.sum()),
        "largest": float(contrast.max()),
        "largest_layer": int(contrast.argmax()),
        "n_layers_above_0": int((low > 0).sum()),
        "n_layers": len(contrast),
    }
