"""The methods of a comparison. Some come in groups: draws of random heads, seeds of a decoder that samples."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from llava_hh.decoding.grammar import Spec, parse
from llava_hh.decoding.head_lists import control_heads
from llava_hh.decoding.making import Material, Member, heads_for, label_of, make, with_choice
from llava_hh.decoding.method import Greedy, Unavailable
from llava_hh.decoding.reading import read_methods
from llava_hh.decoding.registry import DECODERS, GROUPS, INTERVENTIONS
from llava_hh.heads import Head


def make_members(specs: Sequence[Spec], material: Material) -> list[Member]:
    """The methods of a comparison, greedy decoding first; a group is several.

    Raises:
        ValueError: a head list that does not fit, a field that cannot be, or two methods that come to the same.
        IndexError: a head that the model does not have.
        OSError: a file that is not there.
    """
    members = [Member(Greedy(), Spec("greedy"))]
    for spec in specs:
        if spec.kind in GROUPS:
            members += _group(spec, specs, material)
        elif spec.kind != "greedy" or spec.under:
            members.append(_made(spec, material))
    seen: dict[str, Member] = {}
    limits: dict[str | None, int | None] = {}
    groups: dict[str, Spec] = {}
    for member in members:
        spec, group = member.spec, member.group
        if group and limits.setdefault(group, member.limit) != member.limit:
            raise spec.error(f"the methods of a group have the same limit ({group})")
        if spec.kind in GROUPS and groups.setdefault(group, spec) != spec:
            raise spec.error(f"another group is called {group!r}; name another label")
        if (same := seen.setdefault(member.method.name, member)) is not member:
            raise ValueError(f"methods {str(same.spec)!r} and {str(spec)!r} are the same; leave one out")
    if taken := sorted({*seen}.intersection(member.group for member in members)):
        raise ValueError(f"a group of methods cannot be called {taken[0]!r}, which a method is called; name another")
    return members


def _made(spec: Spec, material: Material) -> Member:
    """A method, or if `all` meant it and it cannot be, one that says why."""
    try:
        return make(spec, material)
    except (ValueError, IndexError, OSError) as error:
        if not spec.is_one_of_all:
            raise
        why = str(error).removeprefix(f"method {str(spec)!r}: ")
        return Member(Unavailable(spec.kind, label_of(spec), spec.kind, why), spec)


def _group(spec: Spec, specs: Sequence[Spec], material: Material) -> list[Member]:
    """The methods of `random` (other heads) or of `seeds` (another seed of a decoder that samples)."""
    of = str(spec.fields["of"])
    alike = [other for other in specs if str(other) == of] or [other for other in specs if other.kind == of]
    if len(alike) > 1:
        raise spec.error(f"{len(alike)} methods are {of}; write the one that is meant in quotes")
    name = "draws" if spec.kind == "random" else "n"
    number = spec.fields.get(name, 2)
    if type(number) is not int or number < 0:
        raise spec.error(f"{name} is {number!r}; expected a whole number of at least 0")
    (target,) = read_methods([str(alike[0] if alike else parse(of))])
    match = spec.fields.get("match")
    if spec.kind == "seeds":
        methods, label = _seeds(spec, target, number, material), f"{label_of(target)}, other seeds"
    else:
        label = f"random heads{', as often active' if match == 'rate' else ''}"
        methods = _random_draws(spec, target, number, label, material)
    if sum(other.kind == spec.kind and other.fields.get("match") == match for other in specs) > 1:
        label += f" ({target})"
    label, limit = str(spec.fields.get("label", label)), spec.fields.get("limit", target.fields.get("limit"))
    return [replace(member, spec=spec, limit=limit, group=label) for member in methods]


def _seeds(spec: Spec, target: Spec, number: int, material: Material) -> list[Member]:
    first = getattr(DECODERS[target.kind].settings, "seed", None) if target.kind in DECODERS else None
    if first is None:
        raise spec.error(f"{target.kind} draws nothing, so it has no seeds")
    first = target.fields.get("seed", first)
    seeds = range(first + 1, first + number + 1)
    return [make(replace(target, fields={**target.fields, "seed": seed}), material) for seed in seeds]


def _random_draws(spec: Spec, target: Spec, number: int, label: str, material: Material) -> list[Member]:
    edits = [part for part in target.parts if part.kind in INTERVENTIONS]
    if len(edits) > 1:
        raise spec.error(f"{target} edits several sets of heads; expected one to draw others for")
    if not edits or INTERVENTIONS[edits[0].kind].layers is not None or INTERVENTIONS[edits[0].kind].has_own_lists:
        raise spec.error(f"{target.kind} has no list of heads to draw others for")
    edited = with_choice(edits[0])
    kept = {name: value for name, value in edited.fields.items() if name not in ("heads", "top_k", "list")}
    members = []
    for seed, heads in _drawn_heads(spec, edited, number, material).items():
        fields = {**kept, "heads": ",".join(map(str, heads))}
        drawn = target.with_fields(lambda part, fields=fields: fields if part.kind == edited.kind else part.fields)
        made = make(drawn, material)
        name = f"random-{'rate-' if spec.fields.get('match') else ''}seed={seed}-{made.method.name}"
        changed = {"name": name, "label": f"{label}, seed {seed} ({target.kind})"}
        changed |= {} if target.kind in DECODERS else {"kind": spec.kind}
        members.append(replace(made, method=replace(made.method, **changed)))
    return members


def _drawn_heads(spec: Spec, edited: Spec, number: int, material: Material) -> Mapping[int, Sequence[Head]]:
    """The heads of each draw, by its seed."""
    heads, seeds = heads_for(edited, material), range(material.seed, material.seed + number)
    match, registered = spec.fields.get("match"), INTERVENTIONS[edited.kind]
    given = {**registered.defaults, **edited.fields}
    if match is None:
        on_text = registered.acts_on_text(given)
        return {seed: control_heads(material.lvlm, heads, seed, on_text) for seed in seeds}
    if match != "rate":
        raise spec.error(f"match is {match!r}; expected rate, or leave it out")
    if edited.kind != "adhh":
        raise spec.error("match=rate is for adhh, whose heads fire at a threshold")
    if material.rate_controls is None:
        raise spec.error("match=rate needs --choosing-captions: scored greedy captions, for rates")
    return material.rate_controls(heads, given["threshold"], seeds)
