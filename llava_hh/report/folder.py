"""A folder of results for the report: its files, and their names on the page."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from llava_hh.files.files import describe_failure, read_result
from llava_hh.files.schema import FINISHED
from llava_hh.runs.scored import RESULT_FILE

# how a file shows that it is damaged, or of another form
UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError)
UNREADABLE += (SafetensorError,)
Made = TypeVar("Made")
SCORED = (
    "*_eval_results.json"  # files of captions with their CHAIR; a second one in a folder is named after its captions
)
EARLIER = ", of an earlier version"
DRAW = re.compile(r"(nocaps_)?(train2014|val2014|(in|near|out)-domain)(?P<of>-([0-9]+|all)-seed[0-9]+)?(_with(out)?)?")


class ResultFolder:
    """The files below a folder of results, without blocks and hidden files; the page itself is written into it.

    Attributes:
        left_out: a line for each file that cannot be read, or is of another form: the page does without its part.
    """

    def __init__(self, folder: Path, first: Sequence[Path] = ()) -> None:
        """List the files.

        Args:
            first: parts of the folder whose files come before those of others.
        Raises:
            FileNotFoundError: no such folder.
        """
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; expected one of results")
        self.folder, self.first = folder, [part.resolve() for part in first]
        self.left_out: list[str] = []
        self.files: list[Path] = []
        seen: set[str] = set()  # a link may lead back
        for below, folders, names in os.walk(folder, followlinks=True):
            if (real := os.path.realpath(below)) in seen:
                folders[:] = []
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if name != "blocks" and not name.startswith("."))
            self.files += [Path(below) / name for name in sorted(names) if not name.endswith(FINISHED)]

    def named(self, pattern: str) -> list[Path]:
        """Files whose name fits the pattern: those of `first`, of earlier versions last, those nearer to the folder."""
        return sorted((path for path in self.files if fnmatch(path.name, pattern)), key=self._rank)

    def each(self, paths: Iterable[Path], make: Callable[[Path], Made]) -> list[Made]:
        """What `make` makes of each file, without those that are damaged, which are added to `left_out`."""
        made = []
        for path in paths:
            try:
                made.append(make(path))
            except UNREADABLE as error:
                line = describe_failure(error) if isinstance(error, OSError | ValueError) else repr(error)
                line = line if str(self.folder) in line else f"{path}: {line}"
                if line not in self.left_out:
                    self.left_out.append(line)
        return made

    def _rank(self, path: Path) -> tuple:
        of_others = not any(path.resolve().is_relative_to(part) for part in self.first)
        return of_others, self.draw(path).endswith(EARLIER), len(path.parts), path

    def draw(self, path: Path) -> str:
        """The draw of images that a file is of, by its folder's name; "" where no folder is named by one.

        Earlier versions named folders by the split alone, which does not tell one draw from another.
        """
        for part in reversed((self.folder.resolve().name, *Path(self.link(path)).parts[:-1])):
            if name := DRAW.fullmatch(part):
                return part if name["of"] else part + EARLIER
        return ""

    def link(self, path: Path) -> str:
        """The path that the page links and shows: relative to the folder."""
        return Path(os.path.relpath(path, self.folder)).as_posix()


def name_of(path: Path) -> str:
    """What captions with their CHAIR are called where they do not say it: by their folder, or the name of the file."""
    return path.parent.name if path.name == RESULT_FILE else path.name.removesuffix(SCORED[1:])


def read_form(path: Path, read: Callable[[dict], Any]) -> Any:
    """The result of `read` on the content of a JSON file.

    Raises:
        ValueError: the file lacks a key that is read; one line that names it.
    """
    content = read_result(path)
    try:
        return read(content)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{path}: not the form of such a result file ({error!r})") from None
