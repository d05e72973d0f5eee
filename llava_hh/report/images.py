"""Pictures inside the page: data URIs, and photographs made small enough for all of them to fit."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path

from PIL.Image import Image

from llava_hh.files.images import load_image

EDGES = (384, 288, 224, 176, 128)  # longest side in pixels; tried in turn
QUALITY = 80


def data_uri(path: Path) -> str:
    """A PNG file as a data URI."""
    return _uri("png", path.read_bytes())


def shrink_images(paths: Mapping[str, Path], budget: int) -> dict[str, str]:
    """Images as WebP data URIs of at most `budget` characters together, as large as that allows.

    Files that are not readable images are left out.

    Raises:
        ValueError: they don't fit even at the smallest size.
    """
    for edge in EDGES:
        uris = {key: uri for key, path in paths.items() if (uri := _shrink(path, edge))}
        size = sum(map(len, uris.values()))
        if size <= budget:
            return uris
    taken = f"{len(uris)} images take {size:,} bytes at {edge} pixels"
    raise ValueError(f"{taken}, {budget:,} are left; use a smaller --limit")


def _shrink(path: Path, edge: int) -> str | None:
    try:
        return shrunk_uri(load_image(path), edge)
    except ValueError:
        return None


def shrunk_uri(image: Image, edge: int) -> str:
    """An RGB image as a WebP data URI, its longest side at most `edge` pixels."""
    small = image.copy()
    small.thumbnail((edge, edge))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=QUALITY)
    return _uri("webp", file.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
