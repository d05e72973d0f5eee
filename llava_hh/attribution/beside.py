"""The files beside an attribution's result: whether they are those that it was made of. Needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_hh.data.rows import existing_file
from llava_hh.files.files import sha256


def refuse_other_files(result: Path, content: Mapping[str, Any]) -> None:
    """See that targets and ablations beside an attribution's result are those that it was made of.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: one is another; results of earlier versions do not say.
    """
    for name, digest in content.get("sha256", {}).items():
        if sha256(existing_file(result.with_name(name), "what attribution wrote beside its result")) != digest:
            what = f"is not what {result.name} beside it was made of, or damaged"
            raise ValueError(f"{result.with_name(name)}: {what}; give the command of the attribution again")
