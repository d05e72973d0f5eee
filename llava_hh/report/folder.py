"""A folder of results as the report reads it: its files, and how the page names them."""

import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from llava_hh.files import read_json


class ResultFolder:
    """What lies below a folder of results, blocks and hidden files aside; the page itself will lie in it."""

    def __init__(self, folder: Path) -> None:
        """List the files.

        Raises:
            FileNotFoundError: no such folder.
        """
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; expected one of results")
        self.folder = folder
        self.files: list[Path] = []
        for place, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if name != "blocks" and not name.startswith("."))
            self.files += [Path(place) / name for name in sorted(names)]

    def named(self, pattern: str) -> list[Path]:
        """Files whose name fits the pattern; those nearer to the folder first."""
        found = [path for path in self.files if fnmatch(path.name, pattern)]
        return sorted(found, key=lambda path: (len(path.parts), path))

    def link(self, path: Path) -> str:
        """A path as the page links and names it: relative to the folder."""
        return Path(os.path.relpath(path, self.folder)).as_posix()


def read_form(path: Path, read: Callable[[dict], Any]) -> Any:
    """What `read` makes of a JSON file.

    Raises:
        ValueError: it lacks what is read; one line that names the file.
    """
    content = read_json(path)
    try:
        return read(content)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{path}: not the form of such a result file ({error!r})") from None
