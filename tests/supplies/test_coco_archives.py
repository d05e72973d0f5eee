"""COCO's archives become the layout of dataset/README.md: whole, tested by their checksums, and nothing outside it."""

import re
from collections import namedtuple
from pathlib import Path

import pytest

from llava_hh.data.coco import load_annotations, load_image_list
from llava_hh.supplies.coco_archives import lacking, unpack
from tests.support.coco_zips import archives_of, zipped
from tests.support.repository import ROOT

IMAGES = {"train2014/": b"", "train2014/a.jpg": b"a" * 5000, "train2014/b.jpg": b"b" * 5000}


def write_archive(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "archive.zip"
    path.write_bytes(zipped(files))
    return path


def test_all_archives_make_the_data_set(tiny_coco, tmp_path):
    coco = tmp_path / "coco"
    assert {name: len(paths) for name, paths in lacking(coco).items()} == {
        "zips/train2014.zip": 1,
        "zips/val2014.zip": 1,
        "annotations/annotations_trainval2014.zip": 4,
    }
    for name, paths in lacking(coco).items():
        (tmp_path / "archive.zip").write_bytes(archives_of(tiny_coco)[f"/{name}"])
        unpack(tmp_path / "archive.zip", paths)
    assert not lacking(coco)
    for split in ("train2014", "val2014"):
        assert len(list((coco / split).iterdir())) == 14
        for path in (tiny_coco / split).iterdir():
            assert (coco / split / path.name).read_bytes() == path.read_bytes()
        ids = [image["image_id"] for image in load_image_list(coco / "annotations" / f"captions_{split}.json")]
        folders = [load_annotations(own / "annotations", ids) for own in (coco, tiny_coco)]
        assert folders[0] == folders[1]
    assert {path.name for path in (coco / "annotations").iterdir()} == {
        f"{kind}_{split}.json" for kind in ("captions", "instances") for split in ("train2014", "val2014")
    }
    for path in (coco / "val2014").glob("*.jpg"):
        path.unlink()
    with pytest.raises(ValueError, match="val2014: is there, and has no image; delete it"):
        lacking(coco)


def test_the_layout_is_that_of_the_page():
    [row] = [line for line in (ROOT / "dataset/README.md").read_text().splitlines() if line.startswith("| `coco/`")]
    folders = set(re.findall(r"`(\w+)/`", row.split("|")[2]))
    assert folders == {
        path.name if path.suffix == "" else path.parent.name for path in sum(lacking(Path("x")).values(), [])
    }


def test_only_what_is_lacking_is_unpacked(tiny_coco, tmp_path):
    """Files that are there stay as they are."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "captions_train2014.json").write_text("mine")
    archive = tmp_path / "archive.zip"
    archive.write_bytes(archives_of(tiny_coco)["/annotations/annotations_trainval2014.zip"])
    unpack(archive, lacking(tmp_path)["annotations/annotations_trainval2014.zip"])
    assert (folder / "captions_train2014.json").read_text() == "mine"
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("damage", ["a byte", "the end", "no archive"])
def test_a_damaged_archive_leaves_nothing(damage, tmp_path):
    archive = write_archive(tmp_path, IMAGES)
    content = bytearray(archive.read_bytes())
    if damage == "a byte":
        place = content.index(b"train2014/b.jpg") + len("train2014/b.jpg") + 4
        content[place] ^= 0xFF
    archive.write_bytes({"a byte": content, "the end": content[:-30], "no archive": b"<html>"}[damage])
    with pytest.raises(ValueError, match=f"^{archive}: damaged .*; delete it and give the same command again$"):
        unpack(archive, [tmp_path / "train2014"])
    assert [path.name for path in tmp_path.iterdir()] == ["archive.zip"]


def test_an_archive_of_something_else(tmp_path):
    archive = write_archive(tmp_path, {"val2014/a.jpg": b"a"})
    with pytest.raises(ValueError, match="no train2014 in it; expected an archive of COCO 2014"):
        unpack(archive, [tmp_path / "train2014"])


def test_names_that_leave_the_folder_are_left_out(tmp_path):
    odd = ["../x", "/x", "train2014/../x", "train2014/..", "train2014/inner/x", "train2014/.x", "x/train2014/y"]
    archive = write_archive(tmp_path, {**IMAGES, **dict.fromkeys(odd, b"x")})
    unpack(archive, [tmp_path / "in" / "train2014"])
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        "archive.zip",
        "in/train2014/a.jpg",
        "in/train2014/b.jpg",
    }


def test_a_disk_without_room(tmp_path, monkeypatch):
    archive = write_archive(tmp_path, IMAGES)
    usage = namedtuple("usage", "total used free")(10, 1, 9)
    monkeypatch.setattr("llava_hh.files.disk.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="10 kB are needed there, 0 kB are free"):
        unpack(archive, [tmp_path / "train2014"])
    assert not (tmp_path / "train2014").exists()
