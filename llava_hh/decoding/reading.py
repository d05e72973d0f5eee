"""Methods as they are written, checked before anything is loaded; and what files decide them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llava_hh.decoding.grammar import Spec, filled, parse, unknown
from llava_hh.decoding.making import Material, Member, literal_heads, make, path_of, settings_of, source_of, with_choice
from llava_hh.decoding.method import BRANCHES
from llava_hh.decoding.registry import DECODERS, EVERY_KIND, GROUPS, INTERVENTIONS, fields_of, known_kinds
from llava_hh.files.files import read_json
from llava_hh.models.footprint import stored_tensors
from llava_hh.runs.identity import identify


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


def method_of(text: str, material: Material) -> Member:
    """One method, of its text.

    Raises:
        ValueError, IndexError, OSError: as `read_methods` and `make`.
    """
    (spec,) = read_methods([text])
    return make(spec, material)


def inputs_of(specs: Sequence[Spec]) -> Iterator[object]:
    """What decides methods beside the model: their text, files that they name, checkpoints that decoders work with."""
    for part in _parts(specs):
        yield str(part)
        yield from (Path(str(part.fields[name])) for name in ("heads", "choice") if name in part.fields)
        if part.kind == "tfhh":
            yield path_of(part)
        if part.kind in DECODERS:
            tools = getattr(settings_of(part), "tools", dict)()
            yield {name: identify(path) for name, path in tools.items() if path.exists()}


def _parts(specs: Sequence[Spec]) -> Iterator[Spec]:
    """Methods and what stands under them; of a group, also the method that it is of."""
    named = {spec.kind for spec in specs}
    for spec in specs:
        part: Spec | None = spec
        while part is not None:
            yield part
            part = part.under
        if spec.kind in GROUPS and spec.fields["of"] not in named:
            yield from _parts([parse(str(spec.fields["of"]))])


def check_lists(specs: Sequence[Spec], heads: Path | None) -> None:
    """See before anything is loaded that the head lists of methods, and what was chosen, are there.

    Args:
        heads: the list of methods that name none.
    Raises:
        ValueError: a method without a list, a file of another form; OSError: a file that is not there.
    """
    for part in _parts(specs):
        if part.kind in INTERVENTIONS or "heads" in part.fields:
            source = str(source_of(with_choice(part), heads))
            if source != "published" and not literal_heads(source):
                if not Path(source).exists():
                    advice = "attribute the model (bash_scripts/attribute.sh), or write heads out: heads=L24H4"
                    raise FileNotFoundError(f"{source}: no such head list; {advice}")
                read_json(Path(source))


def _check_fields(spec: Spec) -> None:
    known = [*fields_of(spec.kind), *(["on"] if spec.kind in INTERVENTIONS else [])]
    for name in spec.fields:
        if name not in known:
            raise ValueError(f"method {str(spec)!r}: {unknown(f'field of {spec.kind}', name, known)}")
    if spec.kind == "greedy" and spec.fields:
        raise ValueError(f"method {str(spec)!r}: greedy decoding has all images and its own name; expected no fields")
    if "\n" in str(spec.fields.get("label", "")):
        raise ValueError(f"method {str(spec)!r}: a label is one line")
    limit = spec.fields.get("limit")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"method {str(spec)!r}: limit: expected a whole number of at least 1")
    if spec.kind in DECODERS:
        settings_of(spec)
    if spec.kind == "tfhh":
        stored_tensors(path_of(spec))
    if spec.kind in GROUPS and not isinstance(spec.fields.get("of"), str):
        raise ValueError(f"method {str(spec)!r}: needs of=METHOD")
    if spec.kind in INTERVENTIONS and "on" in spec.fields:
        raise ValueError(f"method {str(spec)!r}: `on` belongs to an intervention under a decoder, A+B")
    if spec.under is None:
        return
    if spec.under.kind not in INTERVENTIONS or spec.kind not in {*DECODERS, *INTERVENTIONS, "greedy", "tfhh"}:
        raise ValueError(f"method {str(spec)!r}: A+B puts an intervention B under a method A, not {spec.under.kind}")
    branches, part = set(), spec.under
    while part is not None:
        if outer := [name for name in EVERY_KIND if name in part.fields]:
            raise ValueError(f"method {str(spec)!r}: {outer[0]} belongs to the first part of A+B")
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
