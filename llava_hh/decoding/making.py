"""From a method's text to the method: fields are checked before anything is loaded, heads when the model is there."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_hh.decoding.grammar import Spec, filled, parse, unknown
from llava_hh.decoding.method import BRANCHES, Decoding, Greedy, Method
from llava_hh.decoding.registry import (
    DECODERS,
    EVERY_KIND,
    GROUPS,
    HEAD_FIELDS,
    INTERVENTIONS,
    METHODS,
    fields_of,
    known_kinds,
)
from llava_hh.files import read_json
from llava_hh.footprint import stored_tensors
from llava_hh.head_lists import heads_of_list, heads_with_text, list_file
from llava_hh.heads import Head, check_heads
from llava_hh.identity import identify, identify_checkpoint
from llava_hh.interventions import Intervention
from llava_hh.models.lvlm import Lvlm
from llava_hh.settings import digest_of

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


def read_methods(texts: Sequence[str], defaults: Mapping[str, Mapping[str, object]] | None = None) -> list[Spec]:
    """Read methods, and see before anything is loaded that kinds, fields and files are there.

    Args:
        defaults: by kind, fields of methods that do not name them.
    Raises:
        ValueError: another form, an unknown kind or field, a method that is named twice, a field that cannot be.
        OSError: a file that is not there.
    """
    specs = [filled(parse(text), defaults or {}) for text in texts]
    kinds, named = known_kinds(), {spec.kind for spec in specs}
    for spec in specs:
        if spec.kind not in kinds:
            raise ValueError(f"method {str(spec)!r}: {unknown('kind of method', spec.kind, kinds)}")
        _check_fields(spec)
    for index, spec in enumerate(specs):
        if spec.kind in GROUPS and (of := spec.fields["of"]) not in named:
            (target,) = read_methods([of], defaults)
            specs[index] = replace(spec, fields={**spec.fields, "of": str(target)})
    for index, spec in enumerate(specs):
        if spec in specs[:index]:
            raise ValueError(f"method {str(spec)!r} is named more than once")
    return specs


def tools_of(specs: Sequence[Spec]) -> dict[str, dict]:
    """The checkpoints that decoders work with beside the model, by their content."""
    found = {}
    for spec in specs:
        if spec.kind in DECODERS:
            tools = getattr(_settings(spec), "tools", dict)()
            found |= {f"{spec} {name}": identify(path) for name, path in tools.items() if path.exists()}
    return found


def check_lists(specs: Sequence[Spec], heads: Path | None) -> None:
    """See before anything is loaded that the head lists of methods, and what was chosen, are there.

    Args:
        heads: the list of methods that name none.
    Raises:
        ValueError: a method without a list, a file of another form; OSError: a file that is not there.
    """
    named = {spec.kind for spec in specs}
    for spec in specs:
        target = str(spec.fields.get("of"))
        part = spec if spec.kind not in GROUPS or target in named else parse(target)
        while part is not None:
            if part.kind in INTERVENTIONS or "heads" in part.fields:
                source = str(_source(with_choice(part), heads))
                if source != "published" and not _literal_heads(source):
                    read_json(Path(source))
            part = part.under


def _source(spec: Spec, heads: Path | None) -> object:
    source = spec.fields.get("heads", heads)
    if source is None:
        raise ValueError(f"method {str(spec)!r} needs heads=FILE, or --heads")
    return source


def _literal_heads(source: object) -> list[Head]:
    """Heads that are written out, such as L24H4,L23H3; none where it is the name of a file."""
    found = [LITERAL.fullmatch(part.strip()) for part in str(source).split(",")]
    return [Head(*map(int, match.groups())) for match in found] if all(found) else []


def _check_fields(spec: Spec) -> None:
    known = [*fields_of(spec.kind), *(["on"] if spec.kind in INTERVENTIONS else [])]
    for name in spec.fields:
        if name not in known:
            raise ValueError(f"method {str(spec)!r}: {unknown(f'field of {spec.kind}', name, known)}")
    limit = spec.fields.get("limit")
    if limit is not None and (type(limit) is not int or limit < 1 or spec.kind == "greedy"):
        why = "greedy decoding has all images" if spec.kind == "greedy" else "expected a whole number of at least 1"
        raise ValueError(f"method {str(spec)!r}: limit: {why}")
    if spec.kind in DECODERS:
        _settings(spec)
    if spec.kind == "tfhh":
        stored_tensors(_path_of(spec))
    if spec.kind in GROUPS and not isinstance(spec.fields.get("of"), str):
        raise ValueError(f"method {str(spec)!r}: needs of=METHOD")
    if spec.under is None:
        if spec.kind in INTERVENTIONS and "on" in spec.fields:
            raise ValueError(f"method {str(spec)!r}: `on` belongs to an intervention under a decoder, A+B")
        return
    if spec.under.kind not in INTERVENTIONS or spec.kind not in {*DECODERS, *INTERVENTIONS, "greedy", "tfhh"}:
        raise ValueError(f"method {str(spec)!r}: A+B puts an intervention B under a method A, not {spec.under.kind}")
    branches, part = set(), spec.under
    while part is not None:
        branches.add(part.fields.get("on", "all"))
        part = part.under
    if wrong := branches - {*BRANCHES}:
        raise ValueError(f"method {str(spec)!r}: on is {min(wrong, key=str)!r}; expected all or clean")
    if len(branches) > 1:
        raise ValueError(
            f"method {str(spec)!r}: interventions under one decoder act on the same branches, all or clean"
        )
    if "clean" in branches and not (spec.kind in DECODERS and DECODERS[spec.kind].edits_itself):
        raise ValueError(
            f"method {str(spec)!r}: on=clean is for a decoder that knows its branches; {spec.kind} does not"
        )
    _check_fields(_without_on(spec.under))


def _without_on(spec: Spec) -> Spec:
    fields = {name: value for name, value in spec.fields.items() if name != "on"}
    return replace(spec, fields=fields, under=spec.under and _without_on(spec.under))


def make(spec: Spec | str, material: Material) -> Member:
    """One method.

    Raises:
        ValueError, IndexError, OSError: as `make_members`.
    """
    if isinstance(spec, str):
        (spec,) = read_methods([spec])
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
    kind, given = spec.kind, {name: value for name, value in spec.fields.items() if name not in EVERY_KIND}
    shared = {"interventions": tuple(interventions)}
    shared["label"] = str(spec.fields.get("label") or _label(spec))
    if kind in DECODERS:
        own = DECODERS[kind]
        parts = [[kind, *(f"{name}={value}" for name, value in given.items())], *named]
        shared |= {"name": folder_name(parts, digests, on), "on": on}
        method = Decoding(kind, own.decode, _settings(spec), own.edits_itself, **shared)
    elif kind in METHODS:
        return METHODS[kind](spec, material)
    else:
        checkpoint = _path_of(spec) if kind == "tfhh" else None
        parts = named or [[kind]]
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
        ValueError, IndexError, OSError: as `make_members`.
    """
    given = {**HEAD_FIELDS, **spec.fields}
    source = _source(spec, material.heads)
    if heads := _literal_heads(source):
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


def _settings(spec: Spec) -> Any:
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
    return name if len(name) <= 120 else f"{name[:100]}-{digest_of([*map(list, parts), *digests, on])[:8]}"


def _run_of(checkpoint: Path) -> str:
    """What a fine-tuned checkpoint is called: its folder, or that of its run where it is `model` in that."""
    folder = checkpoint.resolve()
    return folder.parent.name if folder.name == "model" else folder.name


def _path_of(spec: Spec) -> Path:
    if not isinstance(spec.fields.get("path"), str | int):
        raise ValueError(f'method {str(spec)!r} needs path="FOLDER", a fine-tuned checkpoint')
    path = Path(str(spec.fields["path"]))
    return path / "model" if (path / "model" / "config.json").is_file() else path


def _label(spec: Spec) -> str:
    own = {**INTERVENTIONS, **DECODERS}
    names = [own[spec.kind].label] if spec.kind in own else ["TF-HH"] * (spec.kind == "tfhh")
    if spec.under:
        names.append(own[spec.under.kind].label)
    return " + ".join(names) or spec.kind
