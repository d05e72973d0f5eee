"""The caption browser's data: sets of captions of the same images, with what was measured at their words."""

from collections.abc import Sequence
from pathlib import Path

from llava_hh.comparing.summary import label_of
from llava_hh.files.files import read_json
from llava_hh.files.images import image_path
from llava_hh.report.folder import ResultFolder, read_form
from llava_hh.report.words import WordInfluences, WordMaps
from llava_hh.runs.scored import RESULT_FILE

FIRST = ("greedy", "adhh")  # kinds of methods, from the left


def find_sets(results: ResultFolder, limit: int) -> tuple[list[dict], dict[str, Path]]:
    """Sets of captions of the same images, a caption per method, and the images that they show.

    Methods whose folders lie side by side and whose images are of one folder are a set. Of each the first images are
    shown, those with recorded words before those with influences before others.

    Args:
        limit: images in all sets together; each set has an equal share.
    Returns: sets of `name`, `methods` and `images`; and the file of every image by the `key` that images have.
    """
    groups: dict[tuple, list[_Captions]] = {}
    for path in results.named(RESULT_FILE):
        own = _Captions(results, path)
        groups.setdefault((path.parent.parent, own.image_folder), []).append(own)
    sets, files = [], {}
    for (above, _), methods in sorted(groups.items(), key=_least_shown):
        methods.sort(key=lambda own: (FIRST.index(own.kind) if own.kind in FIRST else len(FIRST), own.name))
        folder = above
        if len(methods) == 1:
            folder = methods[0].path.parent
            methods[0].about["label"] = methods[0].label if methods[0].is_method else "captions"
        images = _images(methods, max(1, limit // len(groups)), files)
        name = results.link(folder) if folder != results.folder else folder.resolve().name
        sets.append({"name": name, "methods": [own.about for own in methods], "images": images})
    return sets, files


def _images(methods: Sequence["_Captions"], limit: int, files: dict[str, Path]) -> list[dict]:
    """The images of a set with their captions; adds to `files` what they show."""
    image_ids = list(dict.fromkeys(image_id for own in methods for image_id in own.entries))
    image_ids.sort(key=lambda image_id: -max(own.rank(image_id) for own in methods))  # stable
    images = []
    for image_id in image_ids[:limit]:
        key = next((own.image_key(image_id) for own in methods if image_id in own.entries), None)
        if key:
            files[key] = Path(key)
        images.append({"id": image_id, "key": key, "captions": [own.caption(image_id) for own in methods]})
    return images


class _Captions:
    """One file of captions, with the influences and maps that lie beside it."""

    def __init__(self, results: ResultFolder, path: Path) -> None:
        self.path, self.name = path, path.parent.name
        self.entries, self.image_folder, about = read_form(path, _read)
        self.kind, self.label = about.get("kind", self.name), label_of(self.name, about)
        self.is_method = self.label != self.name or self.kind in FIRST
        self.influences, self.maps = WordInfluences.beside(path), WordMaps.beside(path)
        run = path.with_name("run.json")
        further = [read_json(run).get("settings", {})] if run.is_file() else []
        further += [measured.settings for measured in (self.influences, self.maps) if measured]
        for settings in further:
            self.image_folder = self.image_folder or settings.get("image_folder")
        self.about = {
            "label": self.label,
            "source": results.link(path),
            "influence": self.influences and self.influences.about(results),
            "maps": self.maps and self.maps.about(results),
        }

    def rank(self, image_id: object) -> int:
        """How much can be shown of a caption's words."""
        return 2 * bool(self.maps and self.maps.has(image_id)) + bool(self.influences and self.influences.has(image_id))

    def image_key(self, image_id: object) -> str | None:
        name = self.entries[image_id]["image"]
        return str(image_path(self.image_folder, name)) if self.image_folder and name else None

    def caption(self, image_id: object) -> dict | None:
        """The text, its mentions and what was measured at them; None where the method has no such image."""
        entry = self.entries.get(image_id)
        if entry is None:
            return None
        mentions = entry["mentions"]
        words = [own["word"] for own in mentions]
        return {
            "text": entry["caption"],
            "mentions": [[own[name] for name in ("word", "node", "start", "end", "hallucinated")] for own in mentions],
            "influence": self.influences and self.influences.of(image_id, words),
            "maps": self.maps and self.maps.of(image_id, words),
        }


def _least_shown(group: tuple[tuple, Sequence[_Captions]]) -> tuple[bool, int]:
    """A sort key: sets with something measured at their words come first, then those of many methods."""
    methods = group[1]
    return not any(own.influences or own.maps for own in methods), -len(methods)


def _read(content: dict) -> tuple[dict, str | None, dict]:
    """Entries by image, with what the page shows of them; the folder of the images and the method, where named."""
    entries = {
        own["image_id"]: {"image": own.get("image"), "caption": own["caption"], "mentions": own["mentions"]}
        for own in content["sentences"]
    }
    about = {name: content[name] for name in ("label", "kind") if isinstance(content.get(name), str)}
    return entries, content.get("run", {}).get("image_folder"), about
