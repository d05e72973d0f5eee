"""Attention heads by name: `Head`, head-list files, and seeded control heads."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llava_hh.files.files import read_any_json, read_json
from llava_hh.files.ids import whole_id

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PUBLISHED = (Path(__file__).parent / "published_heads").resolve()  # in a clone a link to checkpoints/heads
LITERAL = re.compile(r"L(\d+)H(\d+)")


class Head(NamedTuple):
    """One query head of the language model, zero-based; prints as `L16H29`, and is `[16, 29]` in JSON."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"


def by_layer(heads: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    """Heads by layer; layers and their heads ascending, without repeats."""
    return {
        layer: [head for _, head in group]
        for layer, group in groupby(sorted({(layer, head) for layer, head in heads}), itemgetter(0))
    }


def literal_heads(source: object) -> list[Head]:
    """Heads that are written out, such as L24H4,L23H3; empty for the name of a file."""
    matches = [LITERAL.fullmatch(part.strip()) for part in str(source).split(",")]
    return [Head(*map(int, match.groups())) for match in matches] if all(matches) else []


def load_heads(path: str | Path, key: str = "hal_heads", top_k: int | None = None) -> list[Head]:
    """Read a head list, best first.

    Args:
        path: a JSON file such as `{"hal_heads": [[16, 29], ...], "non_hal_heads": [...]}`, whose other keys are
            ignored; or heads that are written out, L16H29,L26H9.
        key: which of its lists; heads that are written out are hal_heads alone.
        top_k: take this many from the front; None takes all.

    Raises:
        ValueError: not JSON, no such list, a wrong or repeated pair, or fewer than `top_k` heads; one line naming
            the file and the key.
        OSError: the file cannot be read.
    """
    heads: list[Head] = []
    for where, head in _listed(path, key):
        if head in heads:
            raise ValueError(f"{where} repeats {head}")
        heads.append(head)
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if top_k is not None and top_k > len(heads):
        raise ValueError(f"{path}: {key!r} has {len(heads)} heads, {top_k} were asked for")
    return heads[:top_k]


def _listed(path: str | Path, key: str) -> Iterator[tuple[str, Head]]:
    """The heads of a list in order, each with its place, for messages."""
    if heads := literal_heads(path):
        if key != "hal_heads":
            raise ValueError(f"{path}: heads that are written out have no list {key!r}; name a head-list file")
        yield from ((f"{path}: the list", head) for head in heads)
        return
    content = read_any_json(Path(path))
    if not isinstance(content, dict) or key not in content:
        known = ", ".join(map(repr, content)) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ValueError(f"{path}: no head list {key!r}; the file holds {known or 'nothing'}")
    if not isinstance(content[key], list):
        raise ValueError(f"{path}: {key!r} must be a list of [layer, head] pairs, not {content[key]!r}")
    for row, pair in enumerate(content[key]):
        where = f"{path}: {key}[{row}]"
        yield where, parse_head(pair, where)


def published_list(config: PretrainedConfig, kind: str = "", finder: str = "llava-hh attribute") -> Path:
    """The file that was published for a model of this architecture: the authors' head lists, and mini's.

    The kinds of model and language model, layers, heads and key heads decide. A model that was tuned further fits.

    Args:
        kind: the folder of such files, "" for lists of hallucination heads; finder: the command that finds others.

    Raises:
        ValueError: no such list; names those that there are.
    """
    shape = architecture(config)
    lists = {path: read_json(path) for path in sorted((PUBLISHED / kind).glob("*.json"))}
    for path, content in lists.items():
        if all(content.get(name, value) == value for name, value in shape.items()):
            return path
    what, known = architecture_in_words(shape), ", ".join(path.stem for path in lists)
    raise ValueError(f"no heads are published for {what}: give those that {finder} finds; there are {known}")


def architecture(config: PretrainedConfig) -> dict[str, str | int]:
    """What decides whether a published file is for a model: kinds of model and language model, layers, heads."""
    text = config.get_text_config()
    n_layers, n_heads = text.num_hidden_layers, text.num_attention_heads
    shape = {"model_type": config.model_type, "n_layers": n_layers, "n_heads": n_heads, "text_type": text.model_type}
    return {**shape, "n_key_heads": getattr(text, "num_key_value_heads", n_heads)}


def architecture_in_words(shape: Mapping[str, str | int]) -> str:
    """An architecture, for messages."""
    size = "{n_layers} layers of {n_heads} heads, {n_key_heads} of keys".format_map(shape)
    return f"a {shape['model_type']} of {size} ({shape['text_type']})"


def parse_head(pair: Any, where: str) -> Head:
    """A head from its [layer, head] pair in a file.

    Raises:
        ValueError: no such pair; begins with `where`.
    """
    try:
        if isinstance(pair, list) and min(head := Head(*map(whole_id, pair))) >= 0:
            return head
    except (ValueError, TypeError):
        pass
    raise ValueError(f"{where} must be a [layer, head] pair of numbers from 0 up, not {pair!r}")


def model_of(path: Path) -> dict | None:
    """What the settings of a head list say of the model that was attributed, None where they say nothing.

    Raises:
        ValueError: its `settings` are not an object; one line naming the file.
    """
    settings = read_json(path).get("settings", {})
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: 'settings' is {settings!r:.80}; expected an object")
    return settings.get("model")


def random_heads(n_layers: int, n_heads: int, k: int, seed: int, exclude: Iterable[tuple[int, int]] = ()) -> list[Head]:
    """Draw `k` different control heads, uniformly over the model, from a generator of this draw alone.

    Args:
        exclude: heads that may not be drawn, such as the list that the draw is compared with.

    Raises:
        ValueError: `k` is negative, or more than the heads to draw from.

    Source: the random control of the re-weighting analysis (figure 6).
    Differs: the released code draws from the global generator, after it has sampled the images, so its control
        heads change with the number of images; ours depend on `seed` alone.
    """
    taken = set(exclude)
    pool = [Head(layer, head) for layer in range(n_layers) for head in range(n_heads) if (layer, head) not in taken]
    if not 0 <= k <= len(pool):
        raise ValueError(f"k must lie between 0 and the {len(pool)} heads to draw from, not {k}")
    return random.Random(seed).sample(pool, k)


def check_heads(heads: Iterable[tuple[int, int]], n_layers: int, n_heads: int) -> None:
    """Refuse a head that the model does not have.

    Raises:
        IndexError: names the first such head and the model's size.
    """
    for layer, head in heads:
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise IndexError(f"no head {Head(layer, head)}: the model has {n_layers} layers of {n_heads} heads")
