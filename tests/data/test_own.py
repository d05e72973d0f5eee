"""Images of one's own: files and folders of them, an id for each; what is in them by one's own word."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from llava_hh.data.own import folder_name, load_vocabulary, own_images, own_objects


@pytest.fixture
def folder(tmp_path):
    """A photo, a folder of two more with other files, one of these below, and a folder without images."""
    for name in ("photo.jpg", "trip/b.PNG", "trip/a.webp", "trip/below/c.jpg", "other/12.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name.replace("PNG", "png"))
        os.rename(tmp_path / name.replace("PNG", "png"), tmp_path / name)
    (tmp_path / "trip/notes.txt").write_text("none")
    (tmp_path / "trip/._a.jpg").write_text("of a system")
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_files_and_folders(folder, monkeypatch):
    around, images = own_images([folder / "photo.jpg", folder / "trip"])
    assert around == folder
    assert images == [
        {"image_id": "photo.jpg", "file_name": "photo.jpg"},
        {"image_id": "a.webp", "file_name": "trip/a.webp"},
        {"image_id": "b.PNG", "file_name": "trip/b.PNG"},
    ]
    monkeypatch.chdir(folder / "trip")
    around, images = own_images([folder.relative_to(folder) / "a.webp"])
    assert (around, images) == (folder / "trip", [{"image_id": "a.webp", "file_name": "a.webp"}])
    around, images = own_images([folder / "photo.jpg", folder.relative_to(folder) / "../other"])
    assert (around / images[1]["file_name"]).samefile(folder / "other/12.jpg")


def test_a_path_is_read_as_the_system_reads_it(folder):
    """A `..` behind a link goes up from where the link leads; a link to a photo keeps its own name."""
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere/link").symlink_to(folder / "trip/below")
    (folder / "elsewhere/a.webp").write_bytes(b"another")
    (folder / "mine.jpg").symlink_to(folder / "photo.jpg")
    around, images = own_images([folder / "elsewhere/link/../a.webp", folder / "mine.jpg"])
    assert [(image["image_id"], image["file_name"]) for image in images] == [
        ("a.webp", "trip/a.webp"),
        ("mine.jpg", "mine.jpg"),
    ]
    assert around == folder


def test_names_of_result_folders(folder, monkeypatch):
    monkeypatch.chdir(folder / "trip")
    for given, name in (
        ("a.webp", "a"),
        ("..", folder.name),
        (".", "trip"),
        ("...jpg", "image"),
        ("../other", "other"),
    ):
        assert folder_name(Path(given)) == name, given


def test_what_is_refused(folder):
    for name in ("other/photo.jpg", "12", "012"):
        (folder / name).write_bytes((folder / "photo.jpg").read_bytes())
    (folder / "trip/below.jpg").mkdir()
    assert len(own_images([folder / "trip"])[1]) == 2  # a folder with the name of an image is none
    for paths, words in (
        (["photo.jpg", "other"], r"photo\.jpg and .*other/photo\.jpg have one name, which is the image's id"),
        (["photo.jpg", "photo.jpg"], "have one name, which is the image's id; rename one, or name it once"),
        (["012", "12"], "/012 and .*/12 have one name"),
        (["none.jpg"], r"none\.jpg: no such file or folder"),
        (["empty"], "empty: no image in this folder"),
    ):
        with pytest.raises((ValueError, OSError), match=words):
            own_images([folder / path for path in paths])


def test_truth_by_a_file_or_by_names(tmp_path):
    known = {"car": "car", "auto": "car", "dog": "dog"}.get
    path = tmp_path / "o.jsonl"
    rows = [{"image_id": "a.jpg", "objects": ["auto", "car"]}, {"image_id": "0012", "objects": []}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert own_objects(path, None, ["a.jpg"], known) == {"a.jpg": {"car"}, 12: set()}
    assert own_objects(None, " auto, dog ,", ["a.jpg", "a.jpg"], known) == {"a.jpg": {"car", "dog"}}
    with pytest.raises(ValueError, match="--truth '': no name in it; for an image without objects give --objects"):
        own_objects(None, "", ["a.jpg"], known)
    assert own_objects({"a.jpg": ["auto"], 12: ()}, None, [], known) == {"a.jpg": {"car"}, 12: set()}
    with pytest.raises(ValueError, match="objects: '012' and another name are one image, 12"):
        own_objects({"12": ["dog"], "012": ["car"]}, None, [], known)
    with pytest.raises(ValueError, match="--truth is for one image, here are 2; give --objects"):
        own_objects(None, "dog", ["a.jpg", "b.jpg"], known)
    with pytest.raises(ValueError, match="--truth: object 'cow' is no category, and no synonym of one"):
        own_objects(None, "dog, cow", ["a.jpg"], known)


def test_a_vocabulary(tmp_path):
    path = tmp_path / "words.json"
    path.write_text('{"beaker": ["glass"], "flask": []}')
    assert load_vocabulary(path) == {"beaker": ["glass"], "flask": []}
    path.write_text('{"beaker": "glass"}')
    with pytest.raises(ValueError, match=r"words\.json: beaker is 'glass'; expected a list of texts"):
        load_vocabulary(path)
    with pytest.raises(FileNotFoundError, match="no such file; expected JSON such as"):
        load_vocabulary(tmp_path / "none.json")
