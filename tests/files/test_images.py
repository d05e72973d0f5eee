"""Image files: what is read is what is in them, the rest is refused by name, and names stay inside the folder."""

import json
import os
import struct
import subprocess
import sys
import unicodedata
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_hh.files import images
from llava_hh.files.images import check_image_name, image_path, load_image, turned_by_exif
from llava_hh.models import lvlm
from llava_hh.models.loading import Loading
from llava_hh.models.lvlm import Lvlm
from llava_hh.scripts import caption
from tests.support.repository import ROOT
from tests.support.tiny_newer import FAMILIES
from tests.support.verbs import report_html, score_chair

RED, BLUE = (200, 30, 40), (10, 60, 180)
NAMES = [
    "猫 と 犬.png",
    "🐕🏽.png",
    "שלום.png",
    'it\'s "x".png',
    "two\nlines.png",
    " space .png",
    "<b>&amp;.png",
    "#%20?.png",
]
NAMES += [unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD")]


def png(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds a few bytes of it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def halves(mode: str = "RGB") -> Image.Image:
    """12 x 8, left half red, right half blue."""
    pixels = np.full((8, 12, 3), RED, dtype=np.uint8)
    pixels[:, 6:] = BLUE
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("size", [(100_000, 100_000), (9_000, 12_000), (20_000, 200), (1, 1), (400, 3), (1_000, 4)])
def test_sizes_are_refused_before_anything_is_decoded(size, tmp_path):
    """In a process that may take 0.2 GB more than it began with: the largest would decode to 30 GB."""
    path = tmp_path / "x.png"
    path.write_bytes(png(*size))
    check = f"""
import resource
from pathlib import Path
from llava_hh.files.images import load_image
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 200_000_000,) * 2)
try:
    load_image(Path({str(path)!r}))
except ValueError as error:
    print(error)
"""
    command = [sys.executable, "-W", "error", "-c", check]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path}: an image of ")
    assert "expected sides of 4 to 10,000, one at most 200 times the other" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("size", [(4, 4), (800, 4), (4, 800), (3_000, 20)])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_smallest_and_longest_go_through_every_processor(family, size):
    batch = tiny_lvlm(family).encode([Image.new("RGB", size, RED)], ["describe"])
    assert batch.image_mask.any()
    assert batch.inputs["pixel_values"].isfinite().all()


@cache
def tiny_lvlm(name: str) -> Lvlm:
    model, processor = FAMILIES[name]()
    return Lvlm(model.eval(), processor, lvlm.FAMILIES[model.config.model_type](), Path(name), Loading())


def test_one_picture_is_read_and_an_animation_is_refused(tmp_path):
    frames = [halves(), halves().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    for ending in ("gif", "png", "webp", "tiff"):
        path = tmp_path / f"x.{ending}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        with pytest.raises(ValueError, match=rf"x\.{ending}: an animation of 2 frames"):
            load_image(path)
    path = tmp_path / "camera.jpg"
    frames[0].save(path, "MPO", save_all=True, append_images=frames[1:], quality=100, subsampling=0)
    with Image.open(path) as opened:
        assert opened.n_frames == 2
    assert np.abs(np.asarray(load_image(path), dtype=int) - np.asarray(frames[0])).max() < 8


def test_transparency_and_palettes_keep_their_colours(tmp_path, recwarn):
    expected = np.asarray(halves())
    transparent = halves("RGBA")
    transparent.putalpha(100)
    transparent.save(tmp_path / "alpha.png")
    palette = halves().quantize(4)
    palette.save(tmp_path / "index.png", transparency=0)
    palette.save(tmp_path / "bytes.png", transparency=bytes([0, 128, 255, 255]))
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(np.asarray(load_image(path)), expected, str(path))
    assert not recwarn.list


def test_exif_is_not_looked_at(tmp_path, recwarn):
    """Neither its orientation nor its damage changes a pixel."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    for name, content in (("turned", exif.tobytes()), ("broken", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")):
        halves().save(tmp_path / f"{name}.jpg", exif=content, quality=100, subsampling=0)
        image = load_image(tmp_path / f"{name}.jpg")
        assert image.size == (12, 8)
        assert np.abs(np.asarray(image, dtype=int) - np.asarray(halves())).max() < 8
    assert not recwarn.list


@pytest.mark.parametrize("name", ["turned", "straight", "broken", "none", "pipe", "text", "gone"])
def test_photos_that_exif_would_turn(name, tmp_path, recwarn):
    """Said of what a viewer turns; nothing is, and nothing waits or warns, for other files."""
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = {"turned": 8, "straight": 1}.get(name, 1)
    content = {"broken": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12", "none": b""}.get(name, exif.tobytes())
    if name == "pipe":
        os.mkfifo(path)
    elif name == "text":
        path.write_text("no image")
    elif name != "gone":
        halves().save(path, exif=content)
    assert turned_by_exif(path) == (name == "turned")
    assert not list(recwarn)


def test_formats_that_start_programs_are_no_images(tmp_path):
    halves().save(tmp_path / "x.eps")
    with pytest.raises(ValueError, match=r"x\.eps: not an image"):
        load_image(tmp_path / "x.eps")
    assert set(images.FORMATS) <= Image.OPEN.keys()


def test_what_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=r"folder\.png: cannot be read \(Is a directory\)$"):
        load_image(tmp_path / "folder.png")
    with pytest.raises(ValueError, match=r"cannot be read \(File name too long\)$"):
        load_image(image_path(tmp_path, "x" * 300 + ".png"))
    with pytest.raises(ValueError, match=r"^'[^\n]*two\\nlines\.png': no such image") as caught:
        load_image(tmp_path / "two\nlines.png")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "a/..", "/etc/x.png", "//x.png", "", None, 3, ["x"]])
def test_names_that_leave_the_folder_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="leaves the image folder|expected the name of a file"):
        image_path(tmp_path, name)


def test_names_that_no_file_has_are_refused():
    for name in ("a\0b.png", "\ud800.png", "caf\udce9.png"):
        with pytest.raises(ValueError, match=r"no file can have this name$") as caught:
            check_image_name(name)
        str(caught.value).encode()
    assert check_image_name("a/..b/c...png") == "a/..b/c...png"


def test_folders_of_links_are_read(tmp_path):
    """The folder is a link, the file in it is one to elsewhere, and so is a folder in it, as in caches."""
    (tmp_path / "cache").mkdir()
    halves().save(tmp_path / "cache" / "blob", "PNG")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.jpg").symlink_to(tmp_path / "cache" / "blob")
    (tmp_path / "real" / "part").symlink_to(tmp_path / "cache")
    (tmp_path / "val2014").symlink_to(tmp_path / "real")
    for name in ("x.jpg", "part/blob"):
        np.testing.assert_array_equal(
            np.asarray(load_image(image_path(tmp_path / "val2014", name))), np.asarray(halves())
        )


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> Path:
    """A data set of which every file has an unusual name; its captions file lists them in order."""
    coco = tmp_path_factory.mktemp("named")
    for folder in ("val2014", "annotations"):
        (coco / folder).mkdir()
    for name in NAMES:
        halves().save(coco / "val2014" / name)
    rows = [{"id": place, "file_name": name} for place, name in enumerate(NAMES, 1)]
    texts = [{"id": row["id"], "image_id": row["id"], "caption": "a dog."} for row in rows]
    boxes = [{"id": row["id"], "image_id": row["id"], "category_id": 1} for row in rows]
    for kind, found in (("captions", texts), ("instances", boxes)):
        content = {"images": rows, "annotations": found, "categories": [{"id": 1, "name": "dog"}]}
        (coco / "annotations" / f"{kind}_val2014.json").write_text(json.dumps(content))
    return coco


def caption_flags(checkpoint: Path, coco: Path, out: Path) -> list[str]:
    flags = ["--model", checkpoint, "--image-folder", coco / "val2014", "--annotations", coco / "annotations"]
    flags += ["--split", "val2014", "--out", out, "--max-new-tokens", 4, "--batch-size", 4]
    return [str(flag) for flag in flags]


def test_names_of_any_language_go_through_to_the_page(tiny_checkpoint, named, tmp_path):
    out = tmp_path / "results" / "greedy"
    caption.main(caption_flags(tiny_checkpoint, named, out))
    rows = [json.loads(line) for line in (out / "captions.jsonl").read_bytes().split(b"\n") if line]
    assert [row["image"] for row in rows] == NAMES
    assert len({row["text"] for row in rows}) == 1  # all of them are the same picture
    score_chair(["--captions", str(out / "captions.jsonl"), "--annotations", str(named / "annotations")])
    report_html([str(tmp_path / "results")])
    page = (tmp_path / "results" / "report.html").read_text()
    assert page.count("data:image/webp;base64,") == len(NAMES)


@pytest.mark.parametrize("name", ["../annotations/captions_val2014.json", "/etc/passwd", "a\0.png", "x" * 300])
def test_a_data_file_cannot_lead_out(name, tiny_checkpoint, named, tmp_path, capsys):
    coco = tmp_path / "coco"
    (coco / "annotations").mkdir(parents=True)
    os.symlink(named / "val2014", coco / "val2014")
    content = json.dumps({"images": [{"id": 7, "file_name": name}], "annotations": [], "categories": []})
    (coco / "annotations" / "captions_val2014.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        caption.main(caption_flags(tiny_checkpoint, coco, tmp_path / "out"))
    assert stopped.value.code == 2
    line = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(line) == 1
    assert name[:200] in line[0] or repr(name) in line[0]


def text_chunk(kind: bytes, n_bytes: int) -> bytes:
    """A chunk of a PNG whose text takes so many bytes, packed into few."""
    packed = zlib.compress(bytes(n_bytes))
    content = {b"zTXt": b"a\0\0" + packed, b"iTXt": b"a\0\1\0\0\0" + packed, b"iCCP": b"a\0\0" + packed}.get(kind)
    content = b"a\0" + b"x" * n_bytes if content is None else content
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP", b"tEXt"])
@pytest.mark.parametrize("where", ["in front", "behind"])
def test_large_texts_in_a_png_are_not_looked_at(kind, where, tmp_path):
    """Over PIL's limits, in front of the pixels and behind them; and many times what memory may take."""
    halves().save(tmp_path / "plain.png")
    whole = (tmp_path / "plain.png").read_bytes()
    place = 33 if where == "in front" else len(whole) - 12  # behind the header, or in front of the end
    path = tmp_path / "text.png"
    for n_bytes in (2_000_000, 70_000_000):
        path.write_bytes(whole[:place] + text_chunk(kind, n_bytes) + whole[place:])
        np.testing.assert_array_equal(np.asarray(load_image(path)), np.asarray(halves()))


def test_texts_do_not_hide_what_is_refused(tmp_path):
    halves().save(tmp_path / "x.png")
    whole = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(whole[:33] + text_chunk(b"zTXt", 2_000_000) + whole[33:-30])
    with pytest.raises(ValueError, match=r"x\.png: a damaged image"):
        load_image(tmp_path / "x.png")
    large = png(100_000, 100_000)
    (tmp_path / "x.png").write_bytes(large[:33] + text_chunk(b"zTXt", 2_000_000) + large[33:])
    with pytest.raises(ValueError, match=r"x\.png: an image of "):
        load_image(tmp_path / "x.png")


def test_too_little_memory_is_no_damage(tmp_path, monkeypatch):
    halves().save(tmp_path / "x.png")

    def no_room(*_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", no_room)
    with pytest.raises(MemoryError, match=r"x\.png: too little memory to read this image; use a smaller --batch-size"):
        load_image(tmp_path / "x.png")


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png: not an image but a pipe or a device"):
        load_image(tmp_path / "x.png")
