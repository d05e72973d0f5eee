"""Where each folder of checkpoints/ can be had: published.json, to which the table of checkpoints/README.md is held."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llava_hh.files.files import read_json
from llava_hh.models.hub_id import HubId

TABLE = Path(__file__).with_name("published.json")
SINGLE = ".pth"  # the ending of entries that are one file, and not a folder


@dataclass(frozen=True)
class Source:
    """A folder or file of checkpoints, and where it is from: a repository of the hub, or an address.

    gigabytes: about; inside: the folder of the repository that is wanted, "" for its top.
    """

    path: Path
    gigabytes: float
    hub_id: HubId | None = None
    url: str = ""
    inside: str = ""

    def __str__(self) -> str:
        where = ", ".join(str(part) for part in (self.hub_id, self.inside) if part) or self.url
        return f"{self.path}: {where}, about {self.gigabytes:g} GB"


@cache
def published() -> dict[str, dict]:
    """The table: by the name of a folder or file, `id` (with `revision`) or `url`, `gigabytes`, and what it needs.

    `beside` are names of other entries that it needs; `folders` says that it holds a checkpoint in each of its folders.
    """
    return read_json(TABLE)


def sources_of(path: Path) -> list[Source]:
    """All that a checkpoint needs, by the name of its folder; or, where its config.json names parts, what these need.

    Raises:
        ValueError: the table does not have it, nor is it there.
    """
    config = path / "config.json"
    parts = read_json(config).get("parts") if config.is_file() else None
    if isinstance(parts, dict):
        named = [[path / part for part in (where if isinstance(where, list) else [where])] for where in parts.values()]
        first = [next((part for part in paths if part.exists()), paths[0]) for paths in named]
        return _once([source for part in first for source in sources_of(Path(os.path.normpath(part)))])
    inside = path.name if published().get(path.parent.name, {}).get("folders") else ""
    place = path.parent if inside else path
    if not (entry := published().get(place.name)):
        if path.exists():
            return []
        raise ValueError(
            f"{path}: not there, and nobody whom we know of publishes a {path.name}; put it there yourself"
        )
    hub_id = HubId(entry["id"], entry.get("revision")) if "id" in entry else None
    own = Source(path, entry["gigabytes"], hub_id, entry.get("url", ""), inside)
    beside = [source for name in entry.get("beside", ()) for source in sources_of(place.parent / name)]
    return _once([own, *beside])


def _once(sources: list[Source]) -> list[Source]:
    return list(dict.fromkeys(sources))
