"""Every picture by its name: what draws it, and from which result file."""

from importlib import import_module
from pathlib import Path

STYLES = ("screen", "paper")
# name: module of this package and function, and the result file that it reads
PICTURES = {
    "attention_bias": ("attention_bias:draw_attention_bias", "attention_bias.json"),
    "attention_inheritance": ("attention_inheritance:draw_attention_inheritance", "attention_inheritance.json"),
    "attention_reweight": ("attention_reweight:draw_attention_reweight", "attention_reweight_SPAN.json"),
    "chair_categories": ("chair_details:draw_categories", "chair_details.json"),
    "chair_cooccurrence": ("chair_details:draw_co_occurrence", "chair_details.json"),
    "chair_positions": ("chair_details:draw_positions", "chair_details.json"),
    "finetuning": ("finetuning:draw_finetuning", "log.jsonl of a fine-tuning"),
    "head_map": ("head_map:draw_head_map", "attribution_result.json"),
    "js_divergence": ("js_divergence:draw_js_divergence", "js_divergence.json"),
    "methods": ("methods:draw_methods", "summary.json of evaluate"),
    "methods_over_recall": ("methods_over_recall:draw_methods_over_recall", "summary.json of evaluate"),
    "module_influence": ("module_influence:draw_module_influence", "attribution_result.json"),
    "source_maps": ("head_map:draw_source_maps", "attribution_result.json with sources"),
    "trade_off": ("trade_off:draw_trade_off", "choice.json of evaluate"),
}


def redraw(name: str, source: Path, out: Path) -> None:
    """Draw one of PICTURES from a result file as `out`.png and `out`.pdf.

    Raises:
        ValueError: the file is not a result of the form that this picture shows; OSError: it cannot be read.
    """
    place, wanted = PICTURES[name]
    module, function = place.split(":")
    try:
        getattr(import_module(f"llava_hh.figures.{module}"), function)(source, out)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(f"{source}: {name} is not drawn from such a file; expected {wanted}") from None
