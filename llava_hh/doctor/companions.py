"""Checks of what a profile names beside its model and COCO: for figures 4 and 5, TF-HH, HALC and nocaps.

Only some scripts need these. A part that is not there at all is left out by name; one that is there must be right.
"""

from pathlib import Path

from llava_hh.command_line.profiles import training_checkpoints
from llava_hh.data.nocaps import annotation_files
from llava_hh.files.kinds import refuse_pointer
from llava_hh.models.footprint import stored_tensors
from llava_hh.models.hub_cache import cached
from llava_hh.models.hub_id import read_id
from llava_hh.models.weight_files import check_files

NONE = "the profile names none"
MINI = "mini"  # HALC's tools that are made of mini's vision tower


class Unready(Exception):
    """A check that cannot be made; says why."""


class Companions:
    """Checks that `Examination` makes as well; it has the profile's settings, by name."""

    profile: dict[str, str]
    root: Path

    def located(self, named: str) -> Path:
        """Where a folder of a setting is: a path, or a repository in the local cache of the hub; nothing is fetched."""
        hub_id = read_id(named, self.root)
        return (cached(hub_id) or Path(str(hub_id))) if hub_id else self.root / named

    def check_figure_4(self) -> str:
        return self._models("base_model")

    def check_figure_5(self) -> str:
        return self._models("reference_model", "training_checkpoints")

    def check_halc(self) -> str:
        names = [name for name in ("halc_detector", "halc_scorer") if self.profile[name] != MINI]
        return self._models(*names) if names else "mini's vision tower"

    def check_tf_hh(self) -> str:
        if not (paths := self._there("instruct_path")):
            return NONE
        if not self.profile["instruct_images"]:
            raise ValueError("the profile has instruct_path but no instruct_images")
        data, images = paths[0], self.root / self.profile["instruct_images"]
        refuse_pointer(data)
        with open(data, "rb") as file:
            begin = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
            file.seek(max(0, data.stat().st_size - 64))
            if not begin.startswith(b"[") or not file.read().rstrip().endswith(b"]"):
                raise ValueError(f"{data}: cut off, or not a JSON list of conversations")
        if not images.is_dir():
            raise NotADirectoryError(f"{images}: expected the folder of the images that {data.name} names")
        return f"{data}, images under {images}"

    def check_nocaps(self) -> str:
        if not (paths := self._there("nocaps_path")):
            return NONE
        files = annotation_files(paths[0] / "annotations")
        for path in files:
            refuse_pointer(path)
        if not (images := paths[0] / "images" / "val").is_dir():
            raise FileNotFoundError(f"{images}: no such folder; expected nocaps' images")
        return f"{len(files)} files of annotations in {files[0].parent}"

    def _models(self, *names: str) -> str:
        """See that the models that these settings name can be opened; the headers of their files are read."""
        folders = self._there(*names)
        for folder in folders:
            check_files(folder)
            stored_tensors(folder)
        return ", ".join(map(str, folders)) or NONE

    def _there(self, *names: str) -> list[Path]:
        """The paths that these settings name; training_checkpoints are several.

        Raises:
            Unready: none of them is there.
            FileNotFoundError: some are there, and others not.
        """
        several = {"training_checkpoints": training_checkpoints(self.profile)}
        named = [path for name in names for path in several.get(name, [self.profile[name]])]
        paths = [self.located(path) for path in named if path]
        missing = [path for path in paths if not path.exists()]
        if paths and len(missing) == len(paths):
            raise Unready(f"{', '.join(names)}: nothing at {missing[0]} yet")
        if missing:
            raise FileNotFoundError(f"{missing[0]}: not there, though the profile names it beside {paths[0]}")
        return paths
