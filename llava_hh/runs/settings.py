"""Settings: a frozen dataclass per kind of run, with all that decides its result; and how two of a kind differ."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

IMAGES_BY_CONTENT = "blocks keep the sha256 of each image file, and a changed one is refused"
FIRST_SO_MANY = "the first so many; blocks do not depend on each other, and none is deleted"
LOCAL_PATHS = ("image_folder",)  # they may differ between the machines of a run
FOR_PEOPLE = ("name", "hub", "files")  # of an identity, beside its sha256
OLD_IDENTITY = "config_sha256"  # earlier versions knew a checkpoint by its config.json and the sizes of its files


def digest_of(content: object) -> str:
    """A sha256 of JSON-ready content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Settings:
    """What decides the result of one kind of run, made from flags at the edge.

    Fields are JSON-ready. A file or checkpoint stands as what `llava_hh.runs.identity` makes of it; of its `sha256`
    and its name only the former is compared.
    """

    def free(self) -> Mapping[str, str]:
        """The fields that may change when a run goes on, with the reason. All others are compared."""
        return {}

    def record(self) -> dict[str, Any]:
        """The fields as run.json holds them; those that are None are left out."""
        return json.loads(json.dumps({name: value for name, value in asdict(self).items() if value is not None}))

    def digest(self) -> str:
        """A sha256 of the fields that are compared; every block of a run keeps it."""
        held = {name: compared(value) for name, value in self.record().items() if name not in self.free()}
        return digest_of(held)


@dataclass(frozen=True)
class CaptionedSettings(Settings):
    """What decides a measurement on captions, which are measured one by one.

    Args:
        model: what `llava_hh.runs.identity.describe_loaded` says of it.
        captions_sha256: of all captions that could be measured.
        limit: the first so many.
    """

    model: dict
    captions_sha256: str
    batch_size: int
    limit: int | None
    image_folder: str

    def free(self) -> dict[str, str]:
        return {"limit": FIRST_SO_MANY, "image_folder": IMAGES_BY_CONTENT}


def differences(old: Mapping[str, Any], new: Settings, free: Collection[str] | None = None) -> list[str]:
    """The differences between a run's settings and those in its run.json, a text for each.

    Args:
        free: the fields that may differ; None: those of the settings.
    """
    now = new.record()
    names = sorted({*old, *now} - {*(new.free() if free is None else free)})
    return [text for name in names for text in _differences(name, old.get(name), now.get(name))]


def _differences(name: str, old: Any, new: Any) -> Iterator[str]:
    if compared(old) == compared(new):
        return
    if not (isinstance(old, dict) and isinstance(new, dict)):
        yield f"{name} was {old!r}, is {new!r}"
    elif OLD_IDENTITY in old:
        yield f"{name} was known by config.json and file sizes alone, as earlier versions did"
    else:
        for key in sorted({*old, *new} - {*FOR_PEOPLE, "sha256"}):
            yield from _differences(f"{name}.{key}", old.get(key), new.get(key))
        if old.get("sha256") != new.get("sha256"):
            named = f" was {old['name']}, is {new['name']}" if "name" in old and "name" in new else ""
            yield f"{name}{named}: {_changed_files(old, new)}"


def _changed_files(old: dict, new: dict) -> str:
    before, now = old.get("files") or {}, new.get("files") or {}
    changed = sorted(file for file in {*before, *now} if before.get(file) != now.get(file))
    named = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if changed[5:] else "")
    return f"{named} changed" if changed else "other content"


def compared(value: Any) -> Any:
    """A setting without its names for people and without the files that a sha256 sums up."""
    if isinstance(value, dict):
        hidden = FOR_PEOPLE if "sha256" in value else ()
        return {key: compared(inner) for key, inner in value.items() if key not in hidden}
    return [compared(inner) for inner in value] if isinstance(value, list) else value
