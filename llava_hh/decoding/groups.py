"""The methods of a comparison; those that come in several: draws of random heads, seeds of a decoder that draws."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from llava_hh.decoding.grammar import Spec, parse
from llava_hh.decoding.head_lists import control_heads
from llava_hh.decoding.making import Material, Member, heads_for, label_of, make, with_choice
from llava_hh.decoding.method import Greedy
from llava_hh.decoding.reading import read_methods
from llava_hh.decoding.registry import DECODERS, GROUPS, INTERVENTIONS


def make_members(specs: Sequence[Spec], material: Material) -> list[Member]:
    """The methods of a comparison, greedy decoding first; a group is several.

    Raises:
        ValueError: a head list that does not fit, a field that cannot be, two methods that come to the same.
        IndexError: a head that the model does not have.
        OSError: a file that is not there.
    """
    members = [Member(Greedy(), Spec("greedy"))]
    for spec in specs:
        if spec.kind in GROUPS:
            members += _group(spec, specs, material)
        elif spec.kind != "greedy" or spec.under:
            members.append(make(spec, material))
    seen: dict[str, Member] = {}
    limits: dict[str | None, int | None] = {}
    groups: dict[str, Spec] = {}
    for member in members:
        if member.group and limits.setdefault(member.group, member.limit) != member.limit:
            raise ValueError(
                f"method {str(member.spec)!r}: the methods of a group have the same limit ({member.group})"
            )
        if member.spec.kind in GROUPS and groups.setdefault(member.group, member.spec) != member.spec:
            raise ValueError(
                f"method {str(member.spec)!r}: another group is called {member.group!r}; name another label"
            )
        if (same := seen.setdefault(member.method.name, member)) is not member:
            raise ValueError(f"methods {str(same.spec)!r} and {str(member.spec)!r} are the same; leave one out")
    if taken := sorted({member.group for member in members if member.group} & {*seen}):
        raise ValueError(f"a group of methods cannot be called {taken[0]!r}, which a method is called; name another")
    return members


def _group(spec: Spec, specs: Sequence[Spec], material: Material) -> list[Member]:
    """The methods of `random` (other heads) or of `seeds` (another seed of a decoder that draws)."""
    of = str(spec.fields["of"])
    alike = [each for each in specs if str(each) == of] or [each for each in specs if each.kind == of]
    target = alike[0] if len(alike) == 1 else parse(of)
    if len(alike) > 1:
        raise ValueError(f"method {str(spec)!r}: {len(alike)} methods are {of}; write the one that is meant in quotes")
    name = "draws" if spec.kind == "random" else "n"
    number = spec.fields.get(name, 2)
    if type(number) is not int or number < 0:
        raise ValueError(f"method {str(spec)!r}: {name} is {number!r}; expected a whole number of at least 0")
    (target,) = read_methods([str(target)])
    limit = spec.fields.get("limit", target.fields.get("limit"))
    alike = [each for each in specs if each.kind == spec.kind and each.fields.get("match") == spec.fields.get("match")]
    of_which = f" ({target})" if len(alike) > 1 else ""
    if spec.kind == "seeds":
        members, label = _seeds(spec, target, number, material), f"{label_of(target)}, other seeds{of_which}"
    else:
        members, label = _random_draws(spec, target, number, material), f"random heads{_how(spec)}{of_which}"
    label = str(spec.fields.get("label", label))
    return [replace(member, spec=spec, limit=limit, group=label) for member in members]


def _how(spec: Spec) -> str:
    return ", as often active" if spec.fields.get("match") == "rate" else ""


def _seeds(spec: Spec, target: Spec, number: int, material: Material) -> list[Member]:
    first = getattr(DECODERS[target.kind].settings, "seed", None) if target.kind in DECODERS else None
    if first is None:
        raise ValueError(f"method {str(spec)!r}: {target.kind} draws nothing, so it has no seeds")
    first = target.fields.get("seed", first)
    return [
        make(replace(target, fields={**target.fields, "seed": first + step}), material) for step in range(1, number + 1)
    ]


def _random_draws(spec: Spec, target: Spec, number: int, material: Material) -> list[Member]:
    parts = [target]
    while parts[-1].under is not None:
        parts.append(parts[-1].under)
    edits = [part for part in parts if part.kind in INTERVENTIONS]
    if len(edits) > 1:
        raise ValueError(f"method {str(spec)!r}: {target} edits several sets of heads; expected one to draw others for")
    if not edits:
        raise ValueError(f"method {str(spec)!r}: {target.kind} has no heads to draw others for")
    edited = with_choice(edits[0])
    heads, seeds = heads_for(edited, material), range(material.seed, material.seed + number)
    match = spec.fields.get("match")
    if match == "rate":
        if edited.kind != "adhh":
            raise ValueError(f"method {str(spec)!r}: match=rate is for adhh, whose heads fire at a threshold")
        if material.rate_controls is None:
            raise ValueError(
                f"method {str(spec)!r}: match=rate needs --choosing-captions: scored greedy captions, for rates"
            )
        threshold = edited.fields.get("threshold", INTERVENTIONS["adhh"].defaults["threshold"])
        drawn = material.rate_controls(heads, threshold, seeds)
    elif match is None:
        own = INTERVENTIONS[edited.kind]
        given = {**own.defaults, **edited.fields}
        on_text = own.on_text(given) if callable(own.on_text) else own.on_text
        drawn = {seed: control_heads(material.lvlm, heads, seed, on_text) for seed in seeds}
    else:
        raise ValueError(f"method {str(spec)!r}: match is {match!r}; expected rate, or leave it out")
    members = []
    for seed in seeds:
        written = ",".join(map(str, drawn[seed]))
        fields_ = {name: value for name, value in edited.fields.items() if name not in ("heads", "top_k", "list")}
        made = make(_with_fields(target, edited.kind, {**fields_, "heads": written}), material)
        name = f"random-{'rate-' if match else ''}seed={seed}-{made.method.name}"
        label = f"random heads{_how(spec)}, seed {seed} ({target.kind})"
        changed = {"name": name, "label": label} | ({} if target.kind in DECODERS else {"kind": spec.kind})
        members.append(replace(made, method=replace(made.method, **changed)))
    return members


def _with_fields(spec: Spec, kind: str, given: Mapping[str, object]) -> Spec:
    """The method with other fields of its intervention of that kind."""
    if spec.kind == kind:
        return replace(spec, fields=given)
    return replace(spec, under=_with_fields(spec.under, kind, given))
