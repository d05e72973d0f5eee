"""Hallucination heads of vision-language models: finding them, switching them off, training them.

In Python: `import llava_hh as hh`. Each name below is imported when it is first touched, so that the import is cheap.

The packages, in the order of their imports; each imports only from those before it:

    files         the ground: whole files, locks, processes, memory, NaN and infinite values, tables
    heads         Head and head-list files
    attention     attention modules, spans of keys, interventions, recording
    models        Lvlm and Batch; one file per family of models
    data          COCO, nocaps, POPE, AMBER, MME, instructions as records, without tensors
    metrics       CHAIR, POPE, AMBER, MME, VQA, BLEU; bootstrap and paired tests
    runs          result folders: settings, identity of inputs, blocks that resume
    command_line  what all verbs share: flags, profiles, errors in one line
    decoding      methods, their grammar, captions and yes-or-no answers
    attribution   the influence of every head on every object word
    steering      directions that hidden states are turned towards (VTI, VISTA), and files of them
    finetuning    TF-HH
    comparing     summaries of methods, and finished runs against each other
    figures       pictures from the numbers in result files
    experiments   the one harness with its tasks; figures 3 to 6
    scoring       answers and captions of files, whoever made them
    report        results as a page
    mini          the small model that is built on your machine
    portable      AD-HH without this package
    supplies      weights and images that a profile needs, fetched
    doctor        checks before long work
    api           functions for people who write Python
    scripts       the verbs of llava-hh
    baselines     the decoders that AD-HH is compared with; a link to the folder at the repository's top
    newer_models  what the released code removes on newer models; a link as well

Apart from the order: this file, which imports nothing until a name is touched, and `__main__`, which lists the verbs.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_hh.api.attribution import Attribution, attribute
    from llava_hh.api.chair import chair
    from llava_hh.api.explain import explain
    from llava_hh.api.explanation import Explanation
    from llava_hh.api.models import caption, intervene, load, record
    from llava_hh.attention.interventions import BoostImageScores, DeactivateText, ScaleAttention, ZeroHeads
    from llava_hh.decoding.registry import register_decoder, register_intervention, register_method
    from llava_hh.experiments.evaluate import evaluate
    from llava_hh.heads import Head, load_heads
    from llava_hh.metrics.of_captions import Metric, register_metric
    from llava_hh.models.families import register_family
    from llava_hh.models.lvlm import Batch, Lvlm, release

STARTED_BY = os.getppid()  # noted before torch is imported, which takes seconds: the launcher may die meanwhile

__all__ = [
    "Attribution",
    "Batch",
    "BoostImageScores",
    "DeactivateText",
    "Explanation",
    "Head",
    "Lvlm",
    "Metric",
    "ScaleAttention",
    "ZeroHeads",
    "attribute",
    "caption",
    "chair",
    "evaluate",
    "explain",
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
_NAMES = {
    "api.attribution": ("Attribution", "attribute"),
    "api.chair": ("chair",),
    "api.explain": ("explain",),
    "api.explanation": ("Explanation",),
    "api.models": ("caption", "intervene", "load", "record"),
    "attention.interventions": ("BoostImageScores", "DeactivateText", "ScaleAttention", "ZeroHeads"),
    "decoding.registry": ("register_decoder", "register_intervention", "register_method"),
    "experiments.evaluate": ("evaluate",),
    "heads": ("Head", "load_heads"),
    "metrics.of_captions": ("Metric", "register_metric"),
    "models.families": ("register_family",),
    "models.lvlm": ("Batch", "Lvlm", "release"),
}
_MODULE_OF = {name: f"llava_hh.{module}" for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
