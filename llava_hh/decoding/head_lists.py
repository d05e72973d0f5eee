"""Heads for a loaded model: those of a head list, those of layers, those that attend to text, random controls."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from llava_hh.attention.modules import heads_on_image_alone
from llava_hh.files.files import read_json
from llava_hh.files.processes import processes
from llava_hh.files.progress import say
from llava_hh.heads import Head, check_heads, literal_heads, load_heads, model_of, published_list, random_heads
from llava_hh.models.lvlm import Lvlm
from llava_hh.runs.identity import why_foreign

PUBLISHED = Path("published")
LAYERS_OF_7B = 32  # of the models whose layers papers name
TOP_K, THRESHOLD = 20, 0.4  # AD-HH's in the paper, for LLaVA-1.5-7B


def heads_of_list(
    path: Path, lvlm: Lvlm, top_k: int | None, key: str = "hal_heads", allow_foreign: bool = False
) -> list[Head]:
    """The first `top_k` heads of the list in a file; None takes all.

    Args:
        path: the file, "published" for the list that was published for this model, or heads that are written out.
        key: "hal_heads" or "non_hal_heads".
        allow_foreign: take a list that was found on another model.
    Raises:
        ValueError: the list was found on another model, or is no head list; none was published for this model.
        IndexError: a head that the model does not have.
    """
    if path == PUBLISHED:
        path = published_list(lvlm.model.config)
    heads = load_heads(path, key, top_k)
    check_heads(heads, lvlm.n_layers, lvlm.n_heads)
    origin = None if literal_heads(path) else model_of(path)
    if (why := why_foreign(origin, lvlm.path)) and not allow_foreign:
        raise ValueError(f"--heads {path}: {why}; attribute this model, or pass --foreign-heads")
    return heads


class AnyDepth(NamedTuple):
    """The first and the last of some layers in a model of any depth; negative numbers count from the end."""

    first: int
    last: int


Layers = Sequence[tuple[int, int]]  # ranges: `AnyDepth`, or the first and the last layer of a model with 32


def scaled_layers(named: tuple[int, int], n_layers: int) -> tuple[int, int]:
    """The first and the last of some layers of 32 in a model of another depth, as `heads_of_layers` rounds them."""
    first, last = named
    is_end = last == LAYERS_OF_7B - 1
    return math.ceil(first * n_layers / LAYERS_OF_7B), n_layers - 1 if is_end else last * n_layers // LAYERS_OF_7B


def heads_of_layers(lvlm: Lvlm, published: Layers, given: object = None) -> list[Head]:
    """All heads of some layers, in order.

    Args:
        published: as a paper names them. In a model of another depth the first of a range is rounded up and the last
            down, so that the share of the depth is not exceeded; but the last one of all stays that.
        given: others, as 5-18, 7 or "1,17-29"; None or "": none.
    Raises:
        ValueError: no such layers, or a range that has none in this model.
    """
    n_layers, chosen = lvlm.n_layers, set()
    if given not in (None, ""):
        for part in str(given).split(","):
            if not (found := re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)):
                raise ValueError(f"layers is {given!r}; expected a layer or a range, as 5-18")
            first, last = int(found[1]), int(found[2] or found[1])
            if not first <= last < n_layers:
                raise ValueError(f"layers is {given!r}; expected the first, then the last of 0 to {n_layers - 1}")
            chosen.update(range(first, last + 1))
    else:
        for named in published:
            first, last = named
            if isinstance(named, AnyDepth):
                first, last = (layer + n_layers if layer < 0 else layer for layer in named)
            else:
                first, last = scaled_layers(named, n_layers)
            if not 0 <= first <= last < n_layers:
                of = "a model" if isinstance(named, AnyDepth) else LAYERS_OF_7B
                text = f"layers {named[0]} to {named[1]} of {of}"
                raise ValueError(f"{text} are none of this model's {n_layers}; name some, as layers=1-2")
            chosen.update(range(first, last + 1))
    return [Head(layer, head) for layer in sorted(chosen) for head in range(lvlm.n_heads)]


def published_adhh(lvlm: Lvlm) -> dict:
    """What the list that was published for a model says of AD-HH: `top_k` and `threshold`, where it says them.

    Raises:
        ValueError: no list was published for the model.
    """
    said = read_json(published_list(lvlm.model.config))
    return {name: said[name] for name in ("top_k", "threshold") if name in said}


def adhh_of_list(
    path: Path, lvlm: Lvlm, top_k: int | None = None, threshold: float | None = None, allow_foreign: bool = False
) -> tuple[list[Head], float]:
    """The heads that AD-HH switches off, and its threshold.

    Args:
        top_k, threshold: None takes what a published list says of AD-HH, or all of its heads at 0.4; of another list 20
            heads at 0.4.
    Raises:
        ValueError, IndexError: as `heads_of_list`; or some heads attend to the image alone. Of a published list, which
            may be one for removal, these are left out, and named.
    """
    usual = published_adhh(lvlm) if path == PUBLISHED else {"top_k": TOP_K}
    heads = heads_of_list(path, lvlm, usual.get("top_k") if top_k is None else top_k, allow_foreign=allow_foreign)
    mass = usual.get("threshold", THRESHOLD) if threshold is None else threshold
    return heads_with_text(lvlm, heads, refuse=path != PUBLISHED), mass


def heads_with_text(lvlm: Lvlm, heads: Sequence[Head], refuse: bool = False) -> list[Head]:
    """Those of `heads` that attend to text; prints a line that names the others.

    Args:
        refuse: raise an error where there are others.
    Raises:
        ValueError: there are others and `refuse` is set, or all of `heads` attend to the image alone.
    """
    lacking = set(heads_on_image_alone(lvlm.model))
    kept = [head for head in heads if head not in lacking]
    if len(kept) < len(heads):
        names = ", ".join(str(head) for head in heads if head in lacking)
        text = f"these heads attend to the image alone, nothing comes after it there: {names}"
        if refuse or not kept:
            raise ValueError(text)
        if processes().is_main:
            say(f"left out: {text}")
    return kept


def control_heads(lvlm: Lvlm, heads: Sequence[Head], seed: int, with_text: bool = True) -> list[Head]:
    """As many random heads as `heads`, none of them among these: the control of an intervention on `heads`.

    Args:
        with_text: draw only heads that attend to text, because the intervention acts on what comes after the image.
    Raises:
        ValueError: there are too few heads to draw from.
    """
    taken = [*heads, *heads_on_image_alone(lvlm.model)] if with_text else heads
    return random_heads(lvlm.n_layers, lvlm.n_heads, len(heads), seed, exclude=taken)
