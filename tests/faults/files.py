"""Image files at random, sound and damaged: each is read as it was drawn, or refused in one line that names it."""

import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from llava_hh.files.images import image_path, load_image

LOSSLESS = {"png": "PNG", "bmp": "BMP", "tiff": "TIFF", "ppm": "PPM"}
MODES = ("RGB", "L", "1", "P", "LA", "RGBA")
NAMES = (
    "x.png",
    "猫 犬.png",
    "🐕🏽.png",
    "שלום.png",
    'it\'s "x".png',
    "two\nlines.png",
    " x .png",
    "e\u0301.png",
    "#%20?.png",
)
OUTSIDE = ("../x.png", "/etc/passwd", "a/../../x.png", "", "a\0b.png", "\ud800.png", "//x", "..", "x/..")


def run(folder: Path, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """`n` cases; yields what each was, and what went wrong or None."""
    for number in range(n):
        rng = random.Random(f"{seed}, {number}")
        case = rng.choice(CASES)
        own = folder / f"{number:05d}"
        own.mkdir(parents=True)
        trouble = case(own, rng)
        yield case.__name__.replace("_", " "), trouble and f"case {number}: {trouble}"


def draw(rng: random.Random, mode: str = "RGB") -> Image.Image:
    """Random pixels, as what a processor takes: sides of 4 to 60."""
    width, height = rng.randint(4, 60), rng.randint(4, 60)
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def sound(folder: Path, rng: random.Random) -> str | None:
    """Under a name of any language, maybe through a link, with maybe odd EXIF."""
    ending = rng.choice(sorted(LOSSLESS))
    mode = rng.choice(("RGB", "L") if ending in ("bmp", "ppm") else MODES)
    drawn, name = draw(rng, mode), rng.choice(NAMES)
    path = folder / name
    exif = (
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + rng.randbytes(9)}
        if ending == "png" and rng.random() < 0.3
        else {}
    )
    drawn.save(path, LOSSLESS[ending], **exif)
    if rng.random() < 0.3:
        path.rename(folder / "blob")
        path.symlink_to(folder / "blob")
    read = load_image(image_path(folder, name))
    same = read.mode == "RGB" and np.array_equal(np.asarray(read), np.asarray(drawn.convert("RGB")))
    return None if same else f"{ending} of mode {mode}: other pixels than were drawn"


def cut_off(folder: Path, rng: random.Random) -> str | None:
    path = save(folder, rng)
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) * 9 // 10)])
    return refusal(path)


def spoilt(folder: Path, rng: random.Random) -> str | None:
    """Some bytes are others, so that it may still be an image: then of some RGB, else refused."""
    path = save(folder, rng)
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 30)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content)
    return refusal(path, may_be_read=True)


def no_image(folder: Path, rng: random.Random) -> str | None:
    path = folder / "x.jpg"
    heads = (
        b"",
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"BM",
        b"II*\0",
        b"%!PS-Adobe",
    )
    path.write_bytes(rng.choice(heads) + rng.randbytes(rng.choice((0, 1, 50, 3000))))
    return refusal(path)


def missing(folder: Path, rng: random.Random) -> str | None:
    path = folder / rng.choice(("x.jpg", "x" * 300, "a/b/c.jpg"))
    if rng.random() < 0.3:
        path = folder / "folder.jpg"
        path.mkdir()
    elif rng.random() < 0.3:
        path = folder / "loop.jpg"
        path.symlink_to(path)
    return refusal(path)


def other_kind(folder: Path, rng: random.Random) -> str | None:
    """CMYK, 16 bits and floating point have no certain RGB; an animation is no picture."""
    path = folder / "x.tiff"
    kind = rng.choice(("CMYK", "I;16", "I", "F", "LAB", "animation"))
    if kind == "animation":
        path = folder / f"x.{rng.choice(('gif', 'png', 'webp', 'tiff'))}"
        first = draw(rng)
        others = [Image.fromarray(255 - np.asarray(first)) for _ in range(rng.randint(1, 3))]
        first.save(path, save_all=True, append_images=others)
    elif kind in ("CMYK", "LAB"):
        Image.new(kind, (8, 8)).save(path)
    else:
        draw(rng, "L").convert("I").convert(kind).save(path)
    return refusal(path)


def wrong_size(folder: Path, rng: random.Random) -> str | None:
    """A PNG of a few bytes that declares a size which no processor takes, up to 2**31 - 1 pixels a side."""
    sides = [rng.choice((1, 2, 3)), rng.randint(1, 2**31 - 1)]
    if rng.random() < 0.5:
        sides = [rng.randint(10_001, 2**31 - 1), rng.randint(1, 2**31 - 1)]
    rng.shuffle(sides)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", *sides, 8, rng.choice((0, 2, 6)), 0, 0, 0)
    path = folder / "x.png"
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return refusal(path)


def outside(folder: Path, rng: random.Random) -> str | None:
    """A name that leaves the folder, or that no file can have."""
    name = rng.choice(OUTSIDE)
    os.makedirs(folder / "a", exist_ok=True)
    save(folder.parent / f"{folder.name}_beside", rng)
    try:
        path = image_path(folder, name)
    except ValueError as error:
        return one_line(error, repr(name))
    return f"{name!r} became {path}"


def save(folder: Path, rng: random.Random) -> Path:
    ending = rng.choice(("png", "jpg", "gif", "webp", "bmp", "tiff"))
    folder.mkdir(exist_ok=True)
    path = folder / f"x.{ending}"
    draw(rng).save(path)
    return path


def refusal(path: Path, may_be_read: bool = False) -> str | None:
    """What is wrong with how an image is refused."""
    try:
        image = load_image(path)
    except ValueError as error:
        return one_line(error, str(path))
    if may_be_read and image.mode == "RGB" and min(image.size) >= 4:
        return None
    return f"{path} was read, as {image.size} pixels of {image.mode}"


def one_line(error: ValueError, name: str) -> str | None:
    if "\n" in str(error) or name not in str(error):
        return f"not one line that names {name}: {str(error)!r}"
    return None


CASES: tuple[Callable[[Path, random.Random], str | None], ...] = (
    *(sound,) * 2,
    cut_off,
    spoilt,
    no_image,
    missing,
    other_kind,
    wrong_size,
    outside,
)
