"""The finished methods of a comparison, from which a task makes its result file."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llava_hh.comparing.summary import LABELS, mean_of
from llava_hh.decoding.making import Member
from llava_hh.experiments.captioning import Evaluation


@dataclass(frozen=True)
class Compared:
    """The results of all methods of a comparison.

    results: by the name of each method that was run, in the order of `members`; settings: those of the comparison, for
    the result file; out: the folder that holds the methods' folders.
    """

    evaluation: Evaluation
    members: Sequence[Member]
    results: dict[str, Any]
    settings: dict
    out: Path

    @cached_property
    def run(self) -> list[Member]:
        """The methods that were run, without those that were left out."""
        return [member for member in self.members if member.method.name in self.results]

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """The methods of each group whose mean is a row: `random`, `seeds`, and fine-tunings by two seeds or more."""
        groups: dict[str, list[str]] = {}
        for member in self.run:
            if member.group:
                groups.setdefault(member.group, []).append(member.method.name)
        alone = {member.group for member in self.members if member.has_row}
        return {group: names for group, names in groups.items() if len(names) > 1 or group not in alone}

    @property
    def labels(self) -> dict[str, str]:
        """The labels of methods and of the means of groups in tables, by name."""
        labels = {member.method.name: member.method.label for member in self.run}
        return labels | {group: mean_of(LABELS.get(group, group), len(names)) for group, names in self.groups.items()}
