"""Groups of methods whose mean is a row: draws of random heads, seeds of a sampled method or of a fine-tuning."""

from collections.abc import Mapping, Sequence
from typing import Any

from llava_hh.comparing.summary import LABELS, mean_of
from llava_hh.decoding.making import Member


def groups_of(members: Sequence[Member], results: Mapping[str, Any]) -> dict[str, list[str]]:
    """The methods of each group whose mean is a row: those of `random` and `seeds`, and fine-tunings by two seeds."""
    found: dict[str, list[str]] = {}
    for member in members:
        if member.group and member.method.name in results:
            found.setdefault(member.group, []).append(member.method.name)
    alone = {member.group for member in members if member.has_row}
    return {group: names for group, names in found.items() if len(names) > 1 or group not in alone}


def label_of_group(group: str, names: Sequence[str]) -> str:
    """What the mean of these methods is called in tables."""
    return mean_of(LABELS.get(group, group), len(names))
