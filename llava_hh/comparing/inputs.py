"""Provenance of a result file that is made of other files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llava_hh.files.files import sha256
from llava_hh.runs.run import provenance


def made_of(paths: Iterable[str | Path], **further: Any) -> dict[str, Any]:
    """Provenance of this process, `further`, and the `sha256` of each file by its path."""
    return {**provenance(), **further, "sha256": {str(path): sha256(Path(path)) for path in paths}}
