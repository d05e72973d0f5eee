"""COCO 2014 in its archives: which of them a folder needs, and their content in the layout of dataset/README.md."""

import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile, ZipInfo

from llava_hh.files.disk import refuse_full
from llava_hh.files.files import replacing
from llava_hh.files.parts import folder_part_of
from llava_hh.files.progress import progress

SPLITS = ("train2014", "val2014")
ANNOTATIONS = tuple(f"{kind}_{split}.json" for kind in ("captions", "instances") for split in SPLITS)
DAMAGED = (BadZipFile, zlib.error, EOFError, NotImplementedError)


def lacking(coco: Path) -> dict[str, list[Path]]:
    """What is not there of folders of images and files of annotations, by the archive that has it.

    Raises:
        ValueError: a folder without an image, which would not be filled.
    """
    wanted = {f"zips/{split}.zip": [coco / split] for split in SPLITS}
    for folder in (coco / split for split in SPLITS):
        if folder.is_dir() and not any(folder.glob("*.jpg")):
            raise ValueError(f"{folder}: is there, and has no image; delete it and give the same command again")
    wanted["annotations/annotations_trainval2014.zip"] = [coco / "annotations" / name for name in ANNOTATIONS]
    absent = {archive: [path for path in paths if not path.exists()] for archive, paths in wanted.items()}
    return {archive: paths for archive, paths in absent.items() if paths}


def unpack(archive: Path, targets: Sequence[Path]) -> None:
    """Unpack folders of images and files of annotations; each is there whole, its checksums tested, or not at all.

    Raises:
        ValueError: a damaged archive, or one that lacks a target; names it.
        OSError: the disk is full.
    """
    try:
        with ZipFile(archive) as zipped:
            chosen = {target: _members(zipped, target) for target in targets}
            for target, members in chosen.items():
                if not members:
                    raise ValueError(f"{archive}: no {target.name} in it; expected an archive of COCO 2014")
            refuse_full({target: sum(info.file_size for info in members) for target, members in chosen.items()})
            for target, members in chosen.items():
                _unpack_one(zipped, target, members)
    except DAMAGED as error:
        what = f"damaged ({error}); delete it and give the same command again"
        raise ValueError(f"{archive}: {what}") from None


def _members(zipped: ZipFile, target: Path) -> list[ZipInfo]:
    """What the archive has of a target: the files right in a folder of its name, or the one file of annotations."""
    if target.suffix:
        return [info for info in zipped.infolist() if info.filename == f"annotations/{target.name}"]
    return [info for info in zipped.infolist() if not info.is_dir() and _is_right_in(info.filename, target.name)]


def _is_right_in(name: str, folder: str) -> bool:
    path = PurePosixPath(name)
    return path.parts[:-1] == (folder,) and not path.name.startswith(".")


def _unpack_one(zipped: ZipFile, target: Path, members: Sequence[ZipInfo]) -> None:
    if target.suffix:
        with replacing(target) as part:
            _write(zipped, members[0], part)
        return
    with folder_part_of(target) as folder:
        for info in progress(target.name, "image", members):
            _write(zipped, info, folder / PurePosixPath(info.filename).name)


def _write(zipped: ZipFile, info: ZipInfo, path: Path) -> None:
    """Write one file; its end compares the checksum (CRC-32)."""
    with zipped.open(info) as source, open(path, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
