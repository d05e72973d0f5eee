"""Methods as they are written, checked before anything is loaded; and what files decide them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llava_hh.decoding.grammar import Spec, filled, parse, unknown
from llava_hh.decoding.head_lists import PUBLISHED
from llava_hh.decoding.making import Material, Member, make, path_of, settings_of, source_of, with_choice
from llava_hh.decoding.method import BRANCHES
from llava_hh.decoding.registry import (
    ALL,
    DECODERS,
    EVERY_KIND,
    GROUPS,
    INTERVENTIONS,
    ONE_OF_EACH,
    fields_of,
    known_kinds,
)
from llava_hh.files.files import read_json
from llava_hh.heads import literal_heads
from llava_hh.models.footprint import stored_tensors
from llava_hh.runs.identity import identify


def read_methods(
    texts: Sequence[str],
    defaults: Mapping[str, Mapping[str, object]] | None = None,
    heads: Path | None = None,
    task: str = "chair",
) -> list[Spec]:
    """Read methods, and see before anything is loaded that kinds, fields and files are there.

    Args:
        defaults: by kind, fields of methods that do not name them; heads: the list of those that name none; task: for
            which `all` is meant.
    Raises:
        ValueError: another form, an unknown kind or field, a method that is named twice, a field that cannot be.
        OSError: a file that is not there.
    """
    kinds, written = known_kinds(), [parse(text) for text in texts if text != ALL]
    if ALL in texts:
        chosen = [for_pope if task == "pope" else kind for kind, for_pope in ONE_OF_EACH.items()]
        others = {spec.kind for spec in written if spec.under is None}
        written += [Spec(kind, is_one_of_all=True) for kind in dict.fromkeys(chosen) if kind not in others]
    specs = [filled(spec, defaults or {}, heads) for spec in written]
    named = {spec.kind for spec in specs}
    for spec in specs:
        if spec.kind == ALL or any(part.kind == ALL for part in spec.parts):
            raise spec.error("`all` stands alone, without fields and under no other method")
        if spec.kind not in kinds:
            raise spec.error(unknown("kind of method", spec.kind, kinds))
        if not spec.is_one_of_all:
            _check_fields(spec)
    for index, spec in enumerate(specs):
        if spec.kind in GROUPS and spec.fields["of"] == ALL:
            raise spec.error("of=all is no method; name one")
        if spec.kind in GROUPS and (of := spec.fields["of"]) not in named:
            (target,) = read_methods([of], defaults, heads)
            specs[index] = replace(spec, fields={**spec.fields, "of": str(target)})
    for index, spec in enumerate(specs):
        if spec in specs[:index]:
            raise spec.error("it is named more than once")
    return specs


def method_of(text: str, material: Material) -> Member:
    """One method, from its text.

    Raises:
        ValueError: another form, an unknown kind or field, or a head list that does not fit.
        IndexError: a head that the model does not have.
        OSError: a file that is not there.
    """
    if text == ALL:
        raise ValueError(f"method {text!r} is many methods; evaluate takes it; name one here")
    (spec,) = read_methods([text])
    return make(spec, material)


def inputs_of(specs: Sequence[Spec]) -> Iterator[object]:
    """What decides methods besides the model: their text, files that they name, checkpoints that decoders use."""
    for part in _parts(specs):
        yield str(part)
        yield from (Path(str(part.fields[name])) for name in ("heads", "choice") if name in part.fields)
        if part.kind in INTERVENTIONS and INTERVENTIONS[part.kind].has_own_lists and "heads" not in part.fields:
            yield PUBLISHED
        if part.kind == "tfhh":
            yield path_of(part)
        if part.kind in DECODERS:
            tools = getattr(settings_of(part), "tools", dict)()
            yield {name: identify(path) for name, path in tools.items() if path.exists()}
            yield from (path for path in tools.values() if path == PUBLISHED)


def _parts(specs: Sequence[Spec]) -> Iterator[Spec]:
    """Methods and the interventions under them; for a group, also the method that it is of."""
    named = {spec.kind for spec in specs}
    for spec in specs:
        yield from spec.parts
        if spec.kind in GROUPS and spec.fields["of"] not in named:
            yield from _parts([parse(str(spec.fields["of"]))])


def check_lists(specs: Sequence[Spec], heads: Path | None) -> None:
    """Check before anything is loaded that the head lists of methods, and files of chosen settings, are there.

    Args:
        heads: the list of methods that name none.
    Raises:
        ValueError: a method without a list, a file of another form; OSError: a file that is not there.
    """
    for part in (part for part in _parts(specs) if not part.is_one_of_all):
        registered = INTERVENTIONS.get(part.kind)
        is_listed = registered and registered.layers is None and not registered.has_own_lists
        if is_listed or "heads" in part.fields:
            source = str(source_of(with_choice(part), heads))
            refuse_no_list(source)


def refuse_no_list(source: str | Path) -> None:
    """Check before anything is loaded that a head list is there: a file, a published one, or heads written out.

    Raises:
        ValueError: a file that is not a JSON object; FileNotFoundError: no such file.
    """
    if str(source) == "published" or literal_heads(source):
        return
    if str(source) in ("", "."):
        raise ValueError("--heads: empty; expected a file, published, or heads such as L24H4,L23H3")
    if not Path(source).exists():
        advice = "sh bash_scripts/attribute.sh finds the heads; or --heads published, or --heads L24H4,L23H3"
        raise FileNotFoundError(f"{source}: no such head list; {advice}")
    read_json(Path(source))


def _check_fields(spec: Spec) -> None:
    is_edit, limit = spec.kind in INTERVENTIONS, spec.fields.get("limit")
    known = [*fields_of(spec.kind), *(["on"] if is_edit else [])]
    for name in spec.fields:
        if name not in known:
            raise spec.error(unknown(f"field of {spec.kind}", name, known))
    if spec.kind == "greedy" and spec.fields:
        raise spec.error("greedy decoding has all images and its own name; expected no fields")
    if "\n" in str(spec.fields.get("label", "")):
        raise spec.error("a label is one line")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise spec.error("limit: expected a whole number of at least 1")
    if spec.kind in DECODERS:
        settings_of(spec)
    if spec.kind == "tfhh":
        stored_tensors(path_of(spec))
    if spec.kind in GROUPS and not isinstance(spec.fields.get("of"), str):
        raise spec.error("needs of=METHOD")
    if is_edit and "on" in spec.fields:
        raise spec.error("`on` belongs to an intervention under a decoder, A+B")
    if spec.under is None:
        return
    if spec.under.kind not in INTERVENTIONS or not (is_edit or spec.kind in {*DECODERS, "greedy", "tfhh"}):
        raise spec.error(f"A+B puts an intervention B under a method A, not {spec.under.kind}")
    if outer := [name for part in spec.under.parts for name in EVERY_KIND if name in part.fields]:
        raise spec.error(f"{outer[0]} belongs to the first part of A+B")
    branches = {part.fields.get("on", "all") for part in spec.under.parts}
    if wrong := branches - {*BRANCHES}:
        raise spec.error(f"on is {min(wrong, key=str)!r}; expected all or clean")
    if len(branches) > 1:
        raise spec.error("interventions under one decoder act on the same branches, all or clean")
    if "clean" in branches and not (spec.kind in DECODERS and DECODERS[spec.kind].edits_itself):
        raise spec.error(f"on=clean is for a decoder that knows its branches; {spec.kind} does not")
    _check_fields(
        spec.under.with_fields(lambda part: {name: value for name, value in part.fields.items() if name != "on"})
    )
