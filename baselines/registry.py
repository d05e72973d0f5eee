"""The decoders that the harness knows: their presets by name, and presets with some settings changed."""

import json
from collections.abc import Iterable
from dataclasses import fields, replace

from baselines import dola, halc, opera, pai, vcd
from llava_hh.generation import Decoding

MODULES = (vcd, dola, opera, halc, pai)
PRESETS = {
    name: Decoding(name, module.decode, settings) for module in MODULES for name, settings in module.PRESETS.items()
}


def changed_presets(names: Iterable[str], overrides: Iterable[str]) -> dict[str, Decoding]:
    """The presets of these names, in order, with the settings that are overridden.

    Args:
        overrides: such as "vcd_paper.alpha=0.5"; the value is JSON, or else the text itself.
    Raises:
        ValueError: an override of another form, of an unknown preset, of a field that it does not have, or to a value
            that it does not allow; whether or not the preset is among the names.
    """
    presets = dict(PRESETS)
    for override in overrides:
        target, equals, text = override.partition("=")
        name, dot, field = target.partition(".")
        if not (equals and dot):
            raise ValueError(f"--set {override}: expected preset.field=value, such as vcd_paper.alpha=0.5")
        if name not in presets:
            raise ValueError(f"--set {override}: no preset {name!r}; there are {', '.join(presets)}")
        preset = presets[name]
        known = [each.name for each in fields(preset.settings)]
        if field not in known:
            raise ValueError(f"--set {override}: {name} has no {field!r}; it has {', '.join(known)}")
        try:
            presets[name] = replace(preset, settings=replace(preset.settings, **{field: _value(text)}))
        except ValueError as error:
            raise ValueError(f"--set {override}: {error}") from None
    return {name: presets[name] for name in names}


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
