"""From a method's text to the method: fields are checked before anything is loaded, heads when the model is there."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from llava_hh.attention.interventions import Intervention
from llava_hh.decoding.grammar import Spec
from llava_hh.decoding.head_lists import heads_of_list, heads_with_text, list_file
from llava_hh.decoding.method import Decoding, Greedy, Method
from llava_hh.decoding.registry import DECODERS, EVERY_KIND, GROUPS, HEAD_FIELDS, INTERVENTIONS, METHODS
from llava_hh.files.files import read_json
from llava_hh.heads import Head, check_heads
from llava_hh.models.lvlm import Lvlm
from llava_hh.runs.identity import identify_checkpoint
from llava_hh.runs.settings import digest_of

LITERAL = re.compile(r"L(\d+)H(\d+)")
SLUG = re.compile(r"[^A-Za-z0-9._=+-]+")
LONGEST_NAME = 120  # characters of a folder's name


@dataclass(frozen=True)
class Material:
    """What methods are made from beside their text.

    Args:
        heads: the list of methods that name none; seed: of the first random draw.
        rate_controls: for `random:match=rate`: from (heads, threshold, seeds) to heads by seed.
    """

    lvlm: Lvlm
    heads: Path | None = None
    allow_foreign: bool = False
    seed: int = 42
    rate_controls: Callable[[Sequence[Head], float, Sequence[int]], Mapping[int, Sequence[Head]]] | None = None


@dataclass(frozen=True)
class Member:
    """A method of a comparison: on how many images (None: all), and in which group whose mean is a row."""

    method: Method
    spec: Spec
    limit: int | None = None
    group: str | None = None

    @property
    def has_row(self) -> bool:
        """Whether the method is a row of its own; a random draw, a seed, or one whose `group` is named, is not."""
        return self.spec.kind not in GROUPS and "group" not in self.spec.fields


def source_of(spec: Spec, heads: Path | None) -> object:
    source = spec.fields.get("heads", heads)
    if source in (None, ""):
        raise ValueError(f"method {str(spec)!r} needs heads=FILE, or --heads")
    return source


def literal_heads(source: object) -> list[Head]:
    """Heads that are written out, such as L24H4,L23H3; none where it is the name of a file."""
    found = [LITERAL.fullmatch(part.strip()) for part in str(source).split(",")]
    return [Head(*map(int, match.groups())) for match in found] if all(found) else []


def make(spec: Spec, material: Material) -> Member:
    """One method.

    Raises:
        ValueError, IndexError, OSError: as `llava_hh.decoding.groups.make_members`.
    """
    interventions, named, digests, on = [], [], [], "all"
    part: Spec | None = spec
    while part is not None:
        if part.kind in INTERVENTIONS:
            edit, heads, shown = _intervention(part, material)
            interventions.append(edit)
            digests.append(digest_of([list(head) for head in heads])[:8])
            named.append([part.kind, *(f"{name}={value}" for name, value in shown.items())])
            on = part.fields.get("on", on)
        part = part.under
    kind, shared = spec.kind, {"interventions": tuple(interventions)}
    shared["label"] = str(spec.fields.get("label", label_of(spec)))
    if kind in DECODERS:
        own, settings = DECODERS[kind], settings_of(spec)
        values = {each.name: getattr(settings, each.name) for each in fields(settings)}
        changed = {name: value for name, value in values.items() if value != getattr(own.settings, name)}
        parts = [[kind, *(f"{name}={value}" for name, value in changed.items())], *named]
        shared |= {"name": folder_name(parts, digests, on), "on": on}
        method = Decoding(kind, own.decode, settings, own.edits_itself, **shared)
    elif kind in METHODS:
        return METHODS[kind][0](spec, material)
    else:
        checkpoint = path_of(spec) if kind == "tfhh" else None
        parts = named or [[kind]]
        kind = named[0][0] if kind == "greedy" and named else kind
        if checkpoint is not None:
            parts = [[kind, _run_of(checkpoint)], *named]
            digests.insert(0, identify_checkpoint(checkpoint)["sha256"][:8])
        method = Greedy(name=folder_name(parts, digests), kind=kind, checkpoint=checkpoint, **shared)
    alike = str(replace(spec, fields={}))  # fine-tunings under the same interventions are runs of one method
    group = str(spec.fields.get("group", alike)) if kind == "tfhh" else None
    return Member(method, spec, spec.fields.get("limit"), group)


def heads_for(spec: Spec, material: Material) -> list[Head]:
    """The heads that a method's fields name: of a list, or written out as L24H4,L23H3.

    Raises:
        ValueError, IndexError, OSError: as `make`.
    """
    given = {**HEAD_FIELDS, **spec.fields}
    source = source_of(spec, material.heads)
    if heads := literal_heads(source):
        if "top_k" in spec.fields or "list" in spec.fields or len({*heads}) < len(heads):
            raise ValueError(f"method {str(spec)!r}: heads that are written out have no top_k and list, and no repeats")
        check_heads(heads, material.lvlm.n_layers, material.lvlm.n_heads)
        return heads
    if type(given["top_k"]) is not int or given["top_k"] < 1:
        raise ValueError(f"method {str(spec)!r}: top_k is {given['top_k']!r}; expected a whole number of at least 1")
    path = list_file(Path(str(source)), material.lvlm)
    return heads_of_list(path, material.lvlm, given["top_k"], str(given["list"]), material.allow_foreign)


def _intervention(spec: Spec, material: Material) -> tuple[Intervention, list[Head], dict[str, Any]]:
    """An intervention, its heads, and the fields that its folder's name shows."""
    own = INTERVENTIONS[spec.kind]
    spec = with_choice(spec)
    given = {name: spec.fields.get(name, default) for name, default in own.defaults.items()}
    if missing := [name for name, value in given.items() if value is None]:
        raise ValueError(f"method {str(spec)!r} needs {missing[0]}=")
    for name, value in given.items():
        text = isinstance(own.defaults[name], str)
        if isinstance(value, bool) or not isinstance(value, str if text else int | float):
            expected = "a text" if text else "a number"
            raise ValueError(f"method {str(spec)!r}: {name} is {value!r}; expected {expected}")
    heads = heads_for(spec, material)
    on_text = own.on_text(given) if callable(own.on_text) else own.on_text
    if on_text:
        heads_with_text(material.lvlm, heads, refuse=True)
    try:
        edit = own.make(tuple(heads), **given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"method {str(spec)!r}: {error}") from None
    return edit, heads, {"top_k": len(heads), **given}


def with_choice(spec: Spec) -> Spec:
    """The fields that `evaluate --choose` has chosen, for adhh:choice=FILE.

    Raises:
        ValueError: nothing was chosen, or it is no such file.
    """
    if "choice" not in spec.fields:
        return spec
    path = Path(str(spec.fields["choice"]))
    chosen = read_json(path).get("chosen")
    if not isinstance(chosen, dict) or not {"top_k", "threshold"} <= chosen.keys():
        raise ValueError(f"method {str(spec)!r}: {path}: no setting did better than greedy decoding")
    rest = {name: value for name, value in spec.fields.items() if name != "choice"}
    return replace(spec, fields={"top_k": chosen["top_k"], "threshold": chosen["threshold"], **rest})


def settings_of(spec: Spec) -> Any:
    given = {name: value for name, value in spec.fields.items() if name not in EVERY_KIND}
    try:
        return replace(DECODERS[spec.kind].settings, **given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"method {str(spec)!r}: {error}") from None


def folder_name(parts: Sequence[Sequence[str]], digests: Sequence[str], on: str = "all") -> str:
    """A method's name: kind, settings and the first digits of the hash of its heads, such as
    adhh-top_k=2-threshold=0.965-1a2b3c4d; a long one is cut, and ends with its hash."""
    text = "+".join("-".join(part) for part in parts) + (f"-on={on}" if on != "all" else "")
    name = "-".join([SLUG.sub("_", text), *digests])
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 20]}-{digest_of([*map(list, parts), *digests, on])[:8]}"


def _run_of(checkpoint: Path) -> str:
    """What a fine-tuned checkpoint is called: its folder, or that of its run where it is `model` in that."""
    folder = checkpoint.resolve()
    return folder.parent.name if folder.name == "model" else folder.name


def path_of(spec: Spec) -> Path:
    if not isinstance(spec.fields.get("path"), str | int):
        raise ValueError(f'method {str(spec)!r} needs path="FOLDER", a fine-tuned checkpoint')
    path = Path(str(spec.fields["path"]))
    return path / "model" if (path / "model" / "config.json").is_file() else path


def label_of(spec: Spec) -> str:
    own = {**INTERVENTIONS, **DECODERS}
    names = [own[spec.kind].label] if spec.kind in own else ["TF-HH"] * (spec.kind == "tfhh")
    if spec.under:
        names.append(own[spec.under.kind].label)
    return " + ".join(names) or spec.kind
