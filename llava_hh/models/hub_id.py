"""Repositories of the Hugging Face hub by the names that users give them, told apart from folders.

Nothing here imports torch or huggingface_hub.
"""

import re
from dataclasses import dataclass
from pathlib import Path

_PART = r"[A-Za-z0-9][\w.-]{0,95}"
_FORM = re.compile(rf"(?P<name>(?P<org>{_PART})/{_PART})(@(?P<revision>{_PART}(/{_PART})*))?", re.ASCII)
OURS = ("checkpoints", "dataset", "results")  # folders of this repository: what is missing there is not on the hub


@dataclass(frozen=True)
class HubId:
    """A repository, org/name, at a revision: a branch, a tag or a commit; None is the branch main."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


def read_id(text: str, root: Path = Path()) -> HubId | None:
    """The repository that a text names as org/name or org/name@revision; None where it means a path.

    It means a path if its first part is there in `root`, or is a folder of this repository.
    """
    found = _FORM.fullmatch(text)
    if not found or found["org"] in OURS or (root / found["org"]).exists():
        return None
    return HubId(found["name"], found["revision"])


def checkpoint(text: str) -> Path | HubId:
    """What a flag of a checkpoint means: a repository of the hub, or a folder."""
    return read_id(text) or Path(text)


def snapshot_of(folder: Path) -> dict[str, str] | None:
    """`id` and `commit` of a folder in the cache of the hub; None for a folder elsewhere."""
    repository = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not repository.startswith("models--"):
        return None
    return {"id": repository.removeprefix("models--").replace("--", "/", 1), "commit": folder.name}
