"""The kinds of methods by name. Other people's kinds are registered here, by a file given as `--plugin`.

`register_decoder` and `register_intervention` take one call each. Kinds of `baselines` and `newer_models` are imported
when they are first asked for.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from llava_hh.attention.interventions import BoostImageScores, DeactivateText, Intervention, ScaleAttention, ZeroHeads
from llava_hh.decoding.grammar import NAME
from llava_hh.decoding.head_lists import Layers
from llava_hh.decoding.method import Decoder

MODULES = ("llava_hh.baselines.registry", "llava_hh.newer_models.registry")  # they register kinds when imported
HEAD_FIELDS = {"heads": None, "top_k": 20, "list": "hal_heads"}
LAYERS = "layers"
EVERY_KIND = ("label", "limit")  # fields that every kind has: its name in tables, the first so many images
ALL = "all"  # instead of a method: every one of ONE_OF_EACH whose kind is not named beside it
ONE_OF_EACH: dict[str, str] = {}  # by the kinds that were registered so, the kind that takes their place for POPE
GROUPS = {"random": ["of", "draws", "match"], "seeds": ["of", "n"]}


@dataclass(frozen=True)
class InterventionKind:
    make: Callable[..., Intervention]
    defaults: Mapping[str, Any]
    label: str
    on_text: bool | Callable[[Mapping[str, Any]], bool]
    layers: Layers | None = None  # where it acts on whole layers instead of a list
    has_own_lists: bool = False  # it reads a file of its own form

    def acts_on_text(self, given: Mapping[str, Any]) -> bool:
        """Whether it acts on what comes after the image, by its fields."""
        return self.on_text(given) if callable(self.on_text) else self.on_text


@dataclass(frozen=True)
class DecoderKind:
    decode: Decoder
    settings: Any
    label: str
    edits_itself: bool


INTERVENTIONS: dict[str, InterventionKind] = {}
DECODERS: dict[str, DecoderKind] = {}
METHODS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {}


def register_intervention(
    name: str,
    make: Callable[..., Intervention],
    label: str | None = None,
    on_text: bool | Callable[[Mapping[str, Any]], bool] = True,
    layers: Layers | None = None,
    has_own_lists: bool = False,
    **defaults: Any,
) -> None:
    """Add a kind of intervention under greedy decoding.

    Args:
        make: from heads and the fields by name to the intervention; defaults: these fields with their defaults, None
            where one has to be given.
        on_text: whether it acts on what comes after the image, or a function from the fields to that. Heads that attend
            to the image alone are refused then.
        layers: where it acts on all heads of whole layers instead of a list of heads: ranges of these, such as the
            first and the last of a model with 32, from which those of other depths follow
            (`head_lists.heads_of_layers`). Its field `layers` names others, as layers=5-18.
        has_own_lists: `make` takes a model and the field `heads`, a file or "published", instead of heads.
    Raises:
        ValueError: the name is taken, or is not of letters, digits and _.
    """
    INTERVENTIONS[_free(name)] = InterventionKind(make, defaults, label or name, on_text, layers, has_own_lists)


def register_decoder(
    name: str, decode: Decoder, settings: Any, label: str | None = None, edits_itself: bool = False
) -> None:
    """Add a kind of decoder; `settings` is a frozen dataclass, whose fields are the kind's fields.

    Args:
        edits_itself: whether `decode` takes `edits` (`llava_hh.decoding.method.Decoding`).
    Raises:
        ValueError: the name is taken, or is not of letters, digits and _.
    """
    DECODERS[_free(name)] = DecoderKind(decode, settings, label or name, edits_itself)


def offer_in_all(name: str, for_pope: str | None = None) -> None:
    """Make a kind one of those that `all` stands for; for POPE it is the kind `for_pope`, where one is given."""
    ONE_OF_EACH[name] = for_pope or name


def register_method(name: str, make: Callable[..., Any], fields: Sequence[str] = tuple(HEAD_FIELDS)) -> None:
    """Add a kind of method of any other form.

    Args:
        make: from what was written (`grammar.Spec`) and `making.Material` to a `making.Member`; fields: the kind's.
    Raises:
        ValueError: the name is taken, or is not of letters, digits and _.
    """
    METHODS[_free(name)] = (make, tuple(fields))


def _free(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"method kind {name!r}: expected letters, digits and _")
    if name in {ALL, *INTERVENTIONS, *DECODERS, *METHODS, *GROUPS}:
        raise ValueError(f"method kind {name!r} is registered already")
    return name


register_intervention("adhh", DeactivateText, "AD-HH", threshold=0.4)
offer_in_all("adhh")
register_intervention("removal", ZeroHeads, "heads removed", on_text=False)
register_intervention(
    "scale",
    ScaleAttention,
    "attention scaled",
    lambda given: given["span"] == "after_image",
    alpha=None,
    span="after_image",
)
register_intervention("boost", BoostImageScores, "attention to the image raised", on_text=False, alpha=None)


def known_kinds() -> list[str]:
    """All kinds of methods."""
    for module in MODULES:
        importlib.import_module(module)
    return ["greedy", *INTERVENTIONS, "tfhh", *METHODS, *DECODERS, *GROUPS]


def fields_of(kind: str) -> list[str]:
    """The fields that a kind has."""
    if kind in INTERVENTIONS:
        listed = {"heads": None} if INTERVENTIONS[kind].has_own_lists else HEAD_FIELDS
        listed = listed if INTERVENTIONS[kind].layers is None else [LAYERS]
        names = [*listed, *INTERVENTIONS[kind].defaults, *(["choice"] if kind == "adhh" else [])]
    elif kind in DECODERS:
        names = [field.name for field in fields(DECODERS[kind].settings)]
    else:
        known = {"greedy": [], "tfhh": ["path", "group"], **GROUPS}
        names = known[kind] if kind in known else METHODS[kind][1]
    return [*names, *EVERY_KIND]
