"""Image files that data files name: where they may lie, and what is read of them."""

import io
import stat
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from llava_hh.files.kinds import FETCH, is_pointer

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # none that starts another program, as EPS does
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
# In pixels. Of 1 or 3 rows some processors take the height for channels; LLaVA-1.5 pads to a square of the longer side,
# 300 MB here; Qwen's processors have this limit of the ratio.
SHORTEST, LONGEST, RATIO = 4, 10_000, 200
ORIENTATION = 0x0112  # EXIF's tag
UNUSED_PNG = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # chunks of text, and the colour profile, which is not applied
SIDES = f"expected sides of {SHORTEST} to {LONGEST:,}, one at most {RATIO} times the other; resize or cut it first"


class _Unfit(ValueError):
    """An image that is not read, though it may be sound."""


def check_image_name(name: object) -> str:
    """A name that stays inside its folder: relative, without `..`, and one that a file can have.

    Raises:
        ValueError: any other; one line that quotes it.
    """
    if not (isinstance(name, str) and name):
        raise ValueError(f"image {name!r:.80}: expected the name of a file")
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"image {name!r:.200} leaves the image folder; expected a path inside it, without ..")
    if "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
        raise ValueError(f"image {name!r:.200}: no file can have this name")
    return name


def image_path(folder: Path, name: object) -> Path:
    """The file of an image that a data file names, inside `folder`.

    Only the name must stay inside. The folder and the files in it may be symbolic links to anywhere, because caches and
    shared copies of COCO are folders of links.

    Raises:
        ValueError: a name that is not relative, has `..`, or that no file can have.
    """
    return Path(folder) / check_image_name(name)


def turned_by_exif(path: Path) -> bool:
    """Whether a photo asks by EXIF to be shown turned or mirrored, which `load_image` does not do."""
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            return image.getexif().get(ORIENTATION, 1) in range(2, 9)
    except (OSError, ValueError, SyntaxError, TypeError, struct.error, Image.DecompressionBombError):
        return False  # damaged, which load_image says if it matters


def load_image(path: Path) -> Image.Image:
    """Read an image as RGB. Size and kind are looked at before a pixel is decoded.

    Raises:
        ValueError: it is missing, damaged, animated, too large or too small for the processors, or of a kind that has
            no certain RGB; one line that names the file.
        MemoryError: there is no room for it; names the file too.
    Differs: the released code converts CMYK without its colour profile, and cuts 16 bits off at 255. As there, the
        orientation that EXIF may ask for is not applied, and transparency is dropped.
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise _Unfit("not an image but a pipe or a device")
        try:
            return _read(path)
        except ValueError as error:
            if "MAX_TEXT" not in str(error):  # PIL's limit for what a chunk of text may become
                raise
            return _read(io.BytesIO(b"".join(_parts_without_text(path.read_bytes()))))
    except _Unfit as error:
        problem = str(error)
    except MemoryError:
        raise MemoryError(f"{path}: too little memory to read this image; use a smaller --batch-size") from None
    except FileNotFoundError:
        problem = "no such image; is --image-folder the right one?"
    except UnidentifiedImageError:
        problem = "an empty file" if path.stat().st_size == 0 else f"not an image ({', '.join(FORMATS)})"
        problem = FETCH if is_pointer(path) else problem
    except Image.DecompressionBombError:
        problem = f"an image of far too many pixels; {SIDES}"
    except Exception as error:  # decoders of damaged files raise more than OSError
        reason = getattr(error, "strerror", None)
        problem = f"cannot be read ({reason})" if reason else f"a damaged image ({' '.join(str(error).split())})"
    raise ValueError(f"{path if str(path).isprintable() else repr(str(path))}: {problem}")


def rgb_image(image: str | Path | Image.Image) -> Image.Image:
    """An image of a caller, a file or a PIL image, as RGB.

    Raises:
        ValueError: neither of these, or an image that `load_image` would refuse.
        MemoryError: there is no room for it.
    """
    if isinstance(image, str | Path):
        return load_image(Path(image))
    if not isinstance(image, Image.Image):
        raise ValueError(f"image {image!r:.80}: expected a path or a PIL image")
    name = getattr(image, "filename", "") or f"a PIL image of {image.width} x {image.height} pixels"
    try:
        return _as_rgb(image)
    except _Unfit as error:
        problem = str(error)
    except (OSError, SyntaxError) as error:  # it is read only now, and damaged
        problem = f"a damaged image ({' '.join(str(error).split())})"
    raise ValueError(f"{name}: {problem}")


def _read(source: Path | io.BytesIO) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's, of odd EXIF, of palettes, and of sizes, which are refused below
        with Image.open(source, formats=FORMATS) as image:
            return _as_rgb(image)


def _parts_without_text(png: bytes) -> Iterator[bytes]:
    """A PNG file in pieces, those of UNUSED_PNG left out: PIL unpacks them, and refuses what becomes too large."""
    yield png[:8]
    start = 8
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4])  # length, kind, content, checksum
        if png[start + 4 : start + 8] not in UNUSED_PNG:
            yield png[start:end]
        start = end


def _as_rgb(image: Image.Image) -> Image.Image:
    short, long = sorted(image.size)
    if short < SHORTEST or long > min(LONGEST, RATIO * short):
        raise _Unfit(f"an image of {image.width} x {image.height} pixels; {SIDES}")
    if image.mode not in EIGHT_BIT_MODES:
        raise _Unfit(f"an image of mode {image.mode}; expected 8-bit RGB or grey, convert it first")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # MPO is what cameras write: a photo, then extras
        raise _Unfit(f"an animation of {image.n_frames} frames; expected one picture")
    return image.convert("RGB")
