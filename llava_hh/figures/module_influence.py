"""Influence of whole attention and MLP modules, layer by layer (the paper's module level)."""

from pathlib import Path

import numpy as np

from llava_hh.attribution.summary import counted_words
from llava_hh.figures.style import ONE, PAGE, TWO, add_legend, plt, save_figure
from llava_hh.files.files import read_json

KINDS = {"mha": ("attention (MHA)", ONE), "mlp": ("MLP", TWO)}


def draw_module_influence(attribution: Path, out: Path) -> None:
    """Draw `modules` of attribution_result.json as `out`.png and `out`.pdf."""
    result = read_json(attribution)
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.9), layout="constrained")
    for kind, (label, colour) in KINDS.items():
        module = result["modules"][kind]
        layers = np.arange(len(module["contrastive_influence"]))
        left.plot(layers, module["influence_hallucinated"], color=colour, label=f"{label}, hallucinated words")
        left.plot(layers, module["influence_true"], color=colour, ls=":", label=f"{label}, true words")
        right.plot(layers, module["contrastive_influence"], color=colour)
        right.fill_between(layers, *module["interval"]["contrastive_influence"], color=colour, alpha=0.2, lw=0)
    left.set_title("on the words of each kind")
    right.set_title("hallucinated minus true, 95% bootstrap\nintervals over images")
    for axis in (left, right):
        axis.axhline(0, color="0.6", lw=0.8)
        axis.set_xlabel("layer")
    left.set_ylabel(f"influence ({result['read_out']})")
    add_legend(left, outside=True, loc="outside lower center", ncols=2)
    title = f"Modules ablated at the predicting position ({result['ablation']})"
    save_figure(figure, out, f"{title}\n{counted_words(result)}")
