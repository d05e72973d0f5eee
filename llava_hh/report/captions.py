"""The caption browser's data: sets of captions of the same images, with the measurements at their words."""

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from llava_hh.comparing.comparable import image_digests
from llava_hh.comparing.summary import label_of
from llava_hh.files.files import read_json, sha256_or_none
from llava_hh.files.images import image_path
from llava_hh.report.folder import SCORED, ResultFolder, name_of, read_form
from llava_hh.report.words import WordInfluences, WordMaps
from llava_hh.runs.blocks import Run

GREEDY, RANDOM = "greedy", "random"  # kinds of methods
FIRST = (GREEDY, "adhh")  # from the left
MENTION = ("word", "node", "start", "end", "hallucinated")


def find_sets(results: ResultFolder, limit: int) -> tuple[list[dict], dict[str, Path]]:
    """Sets of captions of the same images, a caption per method, and the images that they show.

    Methods whose folders lie side by side and whose images are in one folder are a set; so are captions there that do
    not say where their images are. The first images of a set are shown: those with recorded words, then those with
    influences, then the others; in each of these those that `differ`. Sets in which any does come before others.

    Args:
        limit: images in all sets together; each set has an equal share.
    Returns: sets of `name`, `methods` and `images`; and the file of every image by the `key` that images have. A method
        is `folded` if it is one of several random draws. An image is said to differ if a method that is not folded says
        something else of it than greedy decoding.
    """
    groups: dict[tuple, list[_Captions]] = {}
    found = results.each(results.named(SCORED), partial(_Captions, results))
    known = {method.path.parent.parent: method.image_folder for method in found if method.image_folder}
    for method in found:
        beside = method.path.parent.parent
        groups.setdefault((beside, method.image_folder or known.get(beside)), []).append(method)
    sets, files = [], {}
    for (folder, _), methods in sorted(groups.items(), key=_least_shown):
        methods.sort(key=lambda method: (FIRST.index(method.kind) if method.kind in FIRST else len(FIRST), method.name))
        if len(methods) == 1:
            folder = methods[0].path.parent
            methods[0].about["label"] = methods[0].label if methods[0].is_method else "captions"
        drawn = [method for method in methods if method.kind == RANDOM]
        for method in drawn if len(drawn) > 1 else ():
            method.about["folded"] = True
        images = _images(methods, max(1, limit // len(groups)), files)
        name = results.link(folder) if folder != results.folder else folder.resolve().name
        sets.append({"name": name, "methods": [method.about for method in methods], "images": images})
    sets.sort(key=lambda own: not any(image["differs"] for image in own["images"]))  # stable
    return sets, files


def _images(methods: Sequence["_Captions"], limit: int, files: dict[str, Path]) -> list[dict]:
    """The images of a set with their captions; adds to `files` what they show."""
    image_ids = list(dict.fromkeys(image_id for method in methods for image_id in method.entries))
    differing = {image_id for image_id in image_ids if _differs(methods, image_id)}

    def order(image_id: object) -> tuple[int, bool]:
        return -max(method.rank(image_id) for method in methods), image_id not in differing

    images = []
    for image_id in sorted(image_ids, key=order)[:limit]:
        keys = (method.image_key(image_id) for method in methods if image_id in method.entries)
        if key := next(filter(None, keys), None):
            files[key] = Path(key)
        captions = [method.caption(image_id) for method in methods]
        images.append({"id": image_id, "key": key, "differs": image_id in differing, "captions": captions})
    return images


def _differs(methods: Sequence["_Captions"], image_id: object) -> bool:
    """Whether a method that is not folded says something else of an image than greedy decoding."""
    compared = [method for method in methods if image_id in method.entries and not method.about["folded"]]
    texts = {method.entries[image_id]["caption"] for method in compared}
    return len(texts) > 1 and any(method.kind == GREEDY for method in compared)


class _Captions:
    """One file of captions, with the influences and maps that lie beside it."""

    def __init__(self, results: ResultFolder, path: Path) -> None:
        self.results, self.path, self.name = results, path, name_of(path)
        self.entries, self.image_folder, about = read_form(path, _read)
        self.kind, self.label = about.get("kind", self.name), label_of(self.name, about)
        self.is_method = self.label != self.name or self.kind in FIRST
        self.influences, self.maps = (kind.beside(path, results) for kind in (WordInfluences, WordMaps))
        self.measured = {"influence": self.influences, "maps": self.maps}
        run = path.with_name("run.json")
        further = results.each([run] * run.is_file(), lambda file: dict(read_json(file).get("settings", {})))
        further += [measured.settings for measured in self.measured.values() if measured]
        for settings in further:
            self.image_folder = self.image_folder or settings.get("image_folder")
        about = {name: measured and measured.about(results) for name, measured in self.measured.items()}
        self.about = {"label": self.label, "source": results.link(path), "folded": False, **about}

    def rank(self, image_id: object) -> int:
        """How much can be shown of a caption's words."""
        shown = [bool(measured and image_id in measured.rows) for measured in (self.influences, self.maps)]
        return shown[0] + 2 * shown[1]

    def image_key(self, image_id: object) -> str | None:
        name = self.entries[image_id]["image"]
        if not (self.image_folder and name):
            return None
        path, digest = image_path(Path(self.image_folder), name), self.digests.get(image_id)

        def key(_: Path) -> str:
            if digest is not None and sha256_or_none(path) not in (None, digest):
                raise ValueError(f"the picture of image {image_id}, {path}, which is another file than was captioned")
            return str(path)

        return next(iter(self.results.each([self.path], key)), None)

    @cached_property
    def digests(self) -> dict[Any, str]:
        """The sha256 of each image that was captioned, where the run kept it."""
        kept = self.results.each([self.path], lambda path: dict(image_digests(Run(path.parent).finished_blocks())))
        return next(iter(kept), {})

    def caption(self, image_id: object) -> dict | None:
        """The text, its mentions and the measurements at them; None where the method has no such image."""
        entry = self.entries.get(image_id)
        if entry is None:
            return None
        words = [mention["word"] for mention in entry["mentions"]]
        mentions = [[mention[name] for name in MENTION] for mention in entry["mentions"]]
        measured = {name: self._at_words(measured, image_id, words) for name, measured in self.measured.items()}
        return {"text": entry["caption"], "mentions": mentions, **measured}

    def _at_words(self, measured: WordInfluences | WordMaps | None, image_id: object, words: list[str]) -> Any:
        found = self.results.each([measured.path] if measured else [], lambda path: measured.of(image_id, words))
        return next(iter(found), None)


def _least_shown(group: tuple[tuple, Sequence[_Captions]]) -> tuple[bool, int]:
    """A sort key: sets with something measured at their words come first, then those of many methods."""
    methods = group[1]
    return not any(any(method.measured.values()) for method in methods), -len(methods)


def _read(content: dict) -> tuple[dict, str | None, dict]:
    """Entries by image, with the keys that the page shows; the folder of the images; the method's label and kind."""
    entries = {
        entry["image_id"]: {
            "image": entry.get("image"),
            "caption": entry["caption"],
            "mentions": [{name: mention[name] for name in MENTION} for mention in entry["mentions"]],
        }
        for entry in content["sentences"]
    }
    about = {name: content[name] for name in ("label", "kind") if isinstance(content.get(name), str)}
    folder = content.get("run", {}).get("image_folder")
    return entries, folder if isinstance(folder, str) else None, about
