"""Hallucination heads of vision-language models: finding them, switching them off, training them.

In Python: `import llava_hh as hh`. Each name below is imported when it is first touched, so that the import is cheap.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_hh.api.chair import chair
    from llava_hh.api.models import caption, intervene, load, record
    from llava_hh.api.words import Attribution, attribute
    from llava_hh.decoding.registry import register_decoder, register_intervention, register_method
    from llava_hh.experiments.evaluate import evaluate
    from llava_hh.heads import Head, load_heads
    from llava_hh.interventions import BoostImageScores, DeactivateText, ScaleAttention, ZeroHeads
    from llava_hh.metrics.of_captions import Metric, register_metric
    from llava_hh.models.families import register_family
    from llava_hh.models.lvlm import Batch, Lvlm, release

STARTED_BY = os.getppid()  # noted before torch is imported, which takes seconds: the launcher may die meanwhile

__all__ = [
    "Attribution",
    "Batch",
    "BoostImageScores",
    "DeactivateText",
    "Head",
    "Lvlm",
    "Metric",
    "ScaleAttention",
    "ZeroHeads",
    "attribute",
    "caption",
    "chair",
    "evaluate",
    "intervene",
    "load",
    "load_heads",
    "record",
    "register_decoder",
    "register_family",
    "register_intervention",
    "register_method",
    "register_metric",
    "release",
]
_PLACES = {
    "api.chair": ("chair",),
    "api.models": ("caption", "intervene", "load", "record"),
    "api.words": ("Attribution", "attribute"),
    "decoding.registry": ("register_decoder", "register_intervention", "register_method"),
    "experiments.evaluate": ("evaluate",),
    "heads": ("Head", "load_heads"),
    "interventions": ("BoostImageScores", "DeactivateText", "ScaleAttention", "ZeroHeads"),
    "metrics.of_captions": ("Metric", "register_metric"),
    "models.families": ("register_family",),
    "models.lvlm": ("Batch", "Lvlm", "release"),
}
_MODULE_OF = {name: f"llava_hh.{module}" for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
