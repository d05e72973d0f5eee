"""Files written atomically, so that they are whole or not there; text and JSON read with errors in one line."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from llava_hh.files.kinds import FETCH, POINTER, refuse_pipe
from llava_hh.files.parts import part_of, share
from llava_hh.files.schema import json_pieces, refuse_other_version, with_version
from llava_hh.files.tensors import TENSORS_MARK, read_metadata

# keys that JSON files of ours have, and the type of their values
JSON_MARKS: tuple[dict[str, type], ...] = (
    {"run": dict},  # a result
    {"argv": list, "settings": dict},  # run.json
    {"image_ids": list, "rows": list},  # a block
    {"files": dict, "images": dict},  # a copy of ground truth
    {"hal_heads": list, "threshold": float, "source": str},  # of an exported decoder
)
PAGE_MARK = b": hallucination heads</title>"
ADVICE = dict.fromkeys(  # for errors that only writing has
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room and give the same command again: finished work is kept"
)
ADVICE[errno.EROFS] = "choose another folder, or have this one mounted for writing"
OTHER = "choose another folder, or have its permissions changed"
Skip = Callable[[str], object] | None  # takes what is wrong with a row, which is then left out; None: it is an error
# control characters, half characters, other line breaks, and what turns the order of writing about
_UNPRINTABLE = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")


def write_json(path: Path, content: object) -> None:
    """Write a JSON file atomically, piece by piece; a result, which has a `run`, says its `schema_version`."""
    _write_pieces(path, chain(json_pieces(with_version(content)), "\n"))


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    """Write a JSON-lines file atomically, row by row."""
    _write_pieces(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; its folder is made if it isn't there."""
    _write_pieces(path, [text])


def _write_pieces(path: Path, pieces: Iterable[str]) -> None:
    with replacing(path) as part, open(part, "w", encoding="utf-8") as file:
        file.writelines(pieces)


def write_tensors(path: Path, arrays: dict, metadata: dict[str, str] | None = None) -> None:
    """Write named numpy arrays, and texts by name, as safetensors, atomically."""
    with replacing(path) as part:
        part.write_bytes(save(arrays, metadata))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to, which then becomes `path`: a reader finds the old file or the new one, never a part.

    Raises:
        FileExistsError: `path` is a JSON file or a page that another program wrote.
        OSError: it could not be written; one line with the file and what to do. The old file is unchanged.
    """
    if path.suffix.lower() in (".json", ".html"):
        refuse_foreign(path)
    try:
        with part_of(path) as part:
            mode = part.stat().st_mode
            yield part
            share(part, mode)
            flush(part)
            os.replace(part, path)
            flush(path.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(_in_words(path, error)) from None


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk, so that they survive a crash of the machine.

    Some network file systems cannot flush a folder; that is not an error.
    """
    with suppress(OSError) if path.is_dir() else nullcontext():
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def refuse_foreign(path: Path) -> None:
    """Refuse to overwrite a JSON file or a page that this package did not write.

    Raises:
        FileExistsError: another program wrote it.
    """
    if os.path.lexists(path) and not is_ours(path):
        raise FileExistsError(f"{path}: is there already, and no run of ours wrote it; move it or choose another --out")


def is_ours(path: Path) -> bool:
    """Whether a file says that this package wrote it: JSON by its keys, a page by its title, arrays by metadata."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".safetensors":
        with suppress(ValueError):
            return TENSORS_MARK in read_metadata(path)
        return False
    if path.suffix.lower() == ".html":
        return PAGE_MARK in path.read_bytes()
    try:
        content = read_any_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and any(
        all(isinstance(content.get(key), kind) for key, kind in keys.items()) for keys in JSON_MARKS
    )


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark; ValueError names a file in another encoding."""
    refuse_pipe(Path(path))
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error})") from None


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that users bring.

    Raises:
        ValueError: it is not JSON (a Git LFS pointer, for example), or not in UTF-8, or nested too deeply, or has half
            of a character; one line.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        if text.startswith(POINTER.decode()):
            raise ValueError(FETCH)
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if "\\ud" in text.lower():
        refuse_half_characters(content)
    return content


class HalfCharacter(ValueError):
    """Text with half of a surrogate pair, which cannot be written; the JSON around it is sound."""


def refuse_half_characters(content: Any) -> None:
    """Refuse parsed JSON in which a text has half of a surrogate pair, as a cut emoji leaves.

    Raises:
        HalfCharacter: names that half.
    """
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise HalfCharacter(f"half of a character, {half}; expected whole text") from None


def read_any_json(path: Path) -> Any:
    """Read a JSON file, whatever it holds; ValueError names it when it is damaged."""
    refuse_pipe(Path(path))
    try:
        return parse_json(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_json_lines(path: Path, expected: str = "JSON lines") -> Iterator[tuple[int, dict[str, Any]]]:
    """Each JSON object of a file with at least one, one object a line, with its row, from 1.

    Raises:
        FileNotFoundError: there is no such file; says what was `expected`.
        ValueError: a line that is not a JSON object, or a file without a row.
    """
    rows = json_rows(path, expected)
    if (first := next(rows, None)) is None:
        raise ValueError(f"{path}: no row there; expected at least one")
    yield from chain([first], rows)


def json_rows(path: Path, expected: str, skip: Skip = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each JSON object of a file with one a line, with its row, from 1; blank lines are left out.

    Raises:
        FileNotFoundError: there is no such file; says what was `expected`.
        ValueError: a line that is not a JSON object, unless `skip` takes it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected {expected}")
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            problem = None if isinstance(row, dict) else f"expected an object, found a {type(row).__name__}"
        except ValueError as error:
            problem = f"{error}; expected one object a line"
        if problem:
            refuse(f"{path}, row {number}: {problem}", skip)
        else:
            yield number, row


def refuse(problem: str, skip: Skip) -> None:
    """Hand what is wrong with a row to `skip`; raise it as ValueError where that is None."""
    if skip is None:
        raise ValueError(problem)
    skip(problem)


def read_json(path: Path) -> dict:
    """Read a JSON object; ValueError names the file when it is not one."""
    content = read_any_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found a {type(content).__name__}")
    return content


def read_result(path: Path) -> dict:
    """Read a result file; ValueError where it is not a JSON object, or another version of this package wrote it."""
    content = read_json(path)
    refuse_other_version(path, content)
    return content


def sha256(path: Path) -> str:
    refuse_pipe(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_one_line(error: Exception) -> str:
    """An error's words in one line."""
    return without_advice(" ".join(str(error).split()) or type(error).__name__)


def without_advice(text: str) -> str:
    """An error's words without torch's advice to load the file as a pickle."""
    if "weights_only" not in text:
        return text
    file, colon, _ = text.partition(": ")
    return (f"{file}: " if colon and " " not in file else "") + "not a file of tensors alone, or damaged"


def sha256_or_none(path: Path) -> str | None:
    """The sha256 of a file, None where it cannot be read, as an image that is left out."""
    try:
        return sha256(path)
    except (OSError, ValueError):
        return None


def describe_failure(error: Exception) -> str:
    """An error in words for the user, in one line; for a refusal of the disk, also what to do about it."""
    if not isinstance(error, OSError) or error.errno is None:
        return in_one_line(error)
    file = " ".join(str(error.filename or "a file").split())
    return _in_words(file, error) if error.errno in ADVICE else f"{file}: {error.strerror}"


def printable(text: str) -> str:
    """A text whose control characters, other than line breaks, are written as escapes."""
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


def _in_words(path: Path | str, error: OSError) -> str:
    return f"{path}: could not be written ({error.strerror}); {ADVICE.get(error.errno, OTHER)}"
