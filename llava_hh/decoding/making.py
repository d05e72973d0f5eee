"""From a method's text to the method: fields are checked before anything is loaded, heads when the model is there."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from llava_hh.attention.interventions import Intervention
from llava_hh.decoding.grammar import Spec
from llava_hh.decoding.head_lists import (
    PUBLISHED,
    heads_of_layers,
    heads_of_list,
    heads_with_text,
    published_adhh,
)
from llava_hh.decoding.method import Decoding, Greedy, Method
from llava_hh.decoding.registry import (
    DECODERS,
    EVERY_KIND,
    GROUPS,
    HEAD_FIELDS,
    INTERVENTIONS,
    LAYERS,
    METHODS,
    InterventionKind,
)
from llava_hh.files.files import read_json
from llava_hh.heads import Head, check_heads, literal_heads
from llava_hh.models.hub import local_folder
from llava_hh.models.hub_id import snapshot_of
from llava_hh.models.lvlm import Lvlm
from llava_hh.runs.identity import identify_checkpoint
from llava_hh.runs.settings import digest_of

SLUG = re.compile(r"[^A-Za-z0-9._=+-]+")
LONGEST_NAME = 120  # characters of a folder's name


@dataclass(frozen=True)
class Material:
    """What methods are made from besides their text.

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
        """Whether the method has a row of its own; random draws, seeds and methods of a named `group` have none."""
        return self.spec.kind not in GROUPS and "group" not in self.spec.fields


def source_of(spec: Spec, heads: Path | None) -> object:
    """The head list that a method names, or else `heads`; a path, or heads that are written out.

    Raises:
        ValueError: there is neither.
    """
    source = spec.fields.get("heads", heads)
    if source in (None, ""):
        raise spec.error("needs heads=FILE, or --heads")
    return source


def make(spec: Spec, material: Material) -> Member:
    """One method.

    Raises:
        ValueError: a head list that does not fit, or a field that cannot be.
        IndexError: a head that the model does not have.
        OSError: a file that is not there.
    """
    if spec.kind in METHODS:
        return METHODS[spec.kind][0](spec, material)
    edits = [_intervention(part, material) for part in spec.parts if part.kind in INTERVENTIONS]
    named, digests = [name for _, name, _ in edits], [digest for _, _, digest in edits]
    shared = {"interventions": tuple(edit for edit, _, _ in edits)}
    kind, shared["label"] = spec.kind, str(spec.fields.get("label", label_of(spec)))
    if kind in DECODERS:
        registered, settings = DECODERS[kind], settings_of(spec)
        on = str(next((part.fields["on"] for part in spec.parts if "on" in part.fields), "all"))
        values = {field.name: getattr(settings, field.name) for field in fields(settings)}
        changed = [f"{name}={value}" for name, value in values.items() if value != getattr(registered.settings, name)]
        name = folder_name([[kind, *changed], *named], digests, on)
        if for_model := getattr(settings, "of_model", None):
            try:
                settings = for_model(material.lvlm)
            except ValueError as error:
                raise spec.error(error) from None
        method = Decoding(kind, registered.decode, settings, registered.edits_itself, on=on, name=name, **shared)
        return Member(method, spec, spec.fields.get("limit"))
    checkpoint = path_of(spec) if kind == "tfhh" else None
    if checkpoint is not None:
        named = [[kind, _run_of(checkpoint)], *named]
        digests = [identify_checkpoint(checkpoint)["sha256"][:8], *digests]
    kind = named[0][0] if kind == "greedy" and named else kind
    method = Greedy(name=folder_name(named or [[kind]], digests), kind=kind, checkpoint=checkpoint, **shared)
    alike = str(replace(spec, fields={}))  # fine-tunings under the same interventions are runs of one method
    group = str(spec.fields.get("group", alike)) if kind == "tfhh" else None
    return Member(method, spec, spec.fields.get("limit"), group)


def heads_for(spec: Spec, material: Material) -> list[Head]:
    """The heads that a method's fields name: of a list, or written out as L24H4,L23H3.

    Raises:
        ValueError: a head list or a field that cannot be.
        IndexError: a head that the model does not have.
        OSError: a file that is not there.
    """
    given = {**HEAD_FIELDS, **spec.fields}
    source = source_of(spec, material.heads)
    if heads := literal_heads(source):
        if "list" in spec.fields or len({*heads}) < len(heads) or spec.fields.get("top_k", len(heads)) != len(heads):
            what = f"{source} are heads that are written out: they have no list and no repeats"
            raise spec.error(f"{what}, and top_k, where it is given, is how many they are")
        check_heads(heads, material.lvlm.n_layers, material.lvlm.n_heads)
        return heads
    if type(given["top_k"]) is not int or given["top_k"] < 1:
        raise spec.error(f"top_k is {given['top_k']!r}; expected a whole number of at least 1")
    path = Path(str(source))
    return heads_of_list(path, material.lvlm, given["top_k"], str(given["list"]), material.allow_foreign)


def _intervention(spec: Spec, material: Material) -> tuple[Intervention, list[str], str]:
    """An intervention, the parts of its folder's name, and the digest of its heads."""
    registered, spec = INTERVENTIONS[spec.kind], of_published(with_choice(spec), material)
    given = {name: spec.fields.get(name, default) for name, default in registered.defaults.items()}
    for name, value in given.items():
        if registered.defaults[name] == "" and type(value) is int:
            given[name] = value = str(value)
        kind, expected = (str, "a text") if isinstance(registered.defaults[name], str) else (int | float, "a number")
        if value is None:
            raise spec.error(f"needs {name}=")
        if isinstance(value, bool) or not isinstance(value, kind):
            raise spec.error(f"{name} is {value!r}; expected {expected}")
    if registered.layers is not None:
        return _on_layers(spec, registered, given, material)
    if registered.has_own_lists:
        return _of_own_lists(spec, registered, given, material)
    heads = heads_for(spec, material)
    if registered.acts_on_text(given):
        heads_with_text(material.lvlm, heads, refuse=True)
    try:
        edit = registered.make(tuple(heads), **given)
    except (TypeError, ValueError) as error:
        raise spec.error(error) from None
    shown = {"top_k": len(heads), **given}
    named = [spec.kind, *(f"{name}={value}" for name, value in shown.items())]
    return edit, named, digest_of([list(head) for head in heads])[:8]


def _on_layers(
    spec: Spec, registered: InterventionKind, given: Mapping[str, Any], material: Material
) -> tuple[Intervention, list[str], str]:
    """An intervention on whole layers: what `_intervention` returns."""
    try:
        heads = heads_of_layers(material.lvlm, registered.layers, spec.fields.get(LAYERS))
        edit = registered.make(tuple(heads), **given)
    except (TypeError, ValueError) as error:
        raise spec.error(error) from None
    layers = sorted({head.layer for head in heads})
    starts = [layer for layer in layers if layer - 1 not in layers]
    ends = [layer for layer in layers if layer + 1 not in layers]
    shown = {LAYERS: "_".join(f"{first}-{last}" for first, last in zip(starts, ends, strict=True)), **given}
    named = [spec.kind, *(f"{name}={value}" for name, value in shown.items())]
    return edit, named, digest_of([list(head) for head in heads])[:8]


def _of_own_lists(
    spec: Spec, registered: InterventionKind, given: Mapping[str, Any], material: Material
) -> tuple[Intervention, list[str], str]:
    """An intervention whose heads stand in a file of its own form: what `_intervention` returns."""
    try:
        edit = registered.make(material.lvlm, str(spec.fields.get("heads", PUBLISHED)), material.allow_foreign, **given)
    except (TypeError, ValueError) as error:
        raise spec.error(error) from None
    named = [spec.kind, *(f"{name}={value}" for name, value in given.items())]
    return edit, named, digest_of([[*head, factor] for head, factor in zip(edit.heads, edit.factors, strict=True)])[:8]


def with_choice(spec: Spec) -> Spec:
    """The method with the fields that `evaluate --choose` has chosen, for adhh:choice=FILE.

    Raises:
        ValueError: nothing was chosen, or it is no such file.
    """
    if "choice" not in spec.fields:
        return spec
    path = Path(str(spec.fields["choice"]))
    chosen = read_json(path).get("chosen")
    if not isinstance(chosen, dict) or not {"top_k", "threshold"} <= chosen.keys():
        raise spec.error(f"{path}: no setting did better than greedy decoding")
    rest = {name: value for name, value in spec.fields.items() if name != "choice"}
    return replace(spec, fields={"top_k": chosen["top_k"], "threshold": chosen["threshold"], **rest})


def of_published(spec: Spec, material: Material) -> Spec:
    """AD-HH with the fields that a published list has for it, where its text does not name them.

    Raises:
        ValueError: no list was published for the model.
    """
    if spec.kind != "adhh" or str(source_of(spec, material.heads)) != str(PUBLISHED):
        return spec
    return replace(spec, fields={**published_adhh(material.lvlm), **spec.fields})


def settings_of(spec: Spec) -> Any:
    """The settings of a decoder with the fields of the method.

    Raises:
        ValueError: a field that cannot be.
    """
    given = {name: value for name, value in spec.fields.items() if name not in EVERY_KIND}
    try:
        return replace(DECODERS[spec.kind].settings, **given)
    except (TypeError, ValueError) as error:
        raise spec.error(error) from None


def folder_name(parts: Sequence[Sequence[str]], digests: Sequence[str], on: str = "all") -> str:
    """The name of a method's folder: kind, settings and the first digits of the hash of its heads.

    For example adhh-top_k=2-threshold=0.95-1a2b3c4d; a long one is cut, and ends with its hash.
    """
    text = "+".join("-".join(part) for part in parts) + (f"-on={on}" if on != "all" else "")
    name = "-".join([SLUG.sub("_", text), *digests])
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 20]}-{digest_of([*map(list, parts), *digests, on])[:8]}"


def _run_of(checkpoint: Path) -> str:
    """The name of a fine-tuned checkpoint: that of its folder, or of its run if the folder is `model`."""
    folder = checkpoint.resolve()
    if hub := snapshot_of(folder):
        return hub["id"]
    return folder.parent.name if folder.name == "model" else folder.name


def path_of(spec: Spec) -> Path:
    """The folder of a fine-tuned checkpoint, which may be given by the folder of its run, or as org/name of the hub.

    Raises:
        ValueError: the method names none.
        OSError: a repository that cannot be fetched.
    """
    if not isinstance(spec.fields.get("path"), str | int):
        raise spec.error('needs path="FOLDER", a fine-tuned checkpoint, or path="ORG/NAME" of the hub')
    path = local_folder(str(spec.fields["path"]))
    return path / "model" if (path / "model" / "config.json").is_file() else path


def label_of(spec: Spec) -> str:
    """The label of a method and of the intervention right under it, such as "VCD + AD-HH"."""
    labels = {kind: registered.label for kind, registered in {**INTERVENTIONS, **DECODERS}.items()} | {"tfhh": "TF-HH"}
    return " + ".join(labels[part.kind] for part in [*spec.parts][:2] if part.kind in labels) or spec.kind
