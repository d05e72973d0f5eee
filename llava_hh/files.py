"""Files that are whole or not there, and what a disk's refusal means to the user."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

ROOM = "make room and give the same command again: finished work is kept"
ADVICE = {  # for errors that only writing has
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: ROOM,
    errno.EROFS: "choose another folder, or have this one mounted for writing",
}
OTHER = "choose another folder, or have its permissions changed"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write a file's content to; on leaving it becomes the file, whose folder is made if it isn't there.

    Raises:
        OSError: it could not be written; one line with the file and what to do. What was there before still is, and
            of the new content nothing.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except SafetensorError as error:  # of a disk's refusal it keeps the words only
        raise OSError(f"{path}: could not be written ({error}); {ROOM}") from None
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(_in_words(path, error)) from None
    finally:
        with suppress(OSError):
            part.unlink()


def describe_failure(error: Exception) -> str:
    """An error in words for the user; of a disk's refusal also what to do about it."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    file = error.filename or "a file"
    return _in_words(file, error) if error.errno in ADVICE else f"{file}: {error.strerror}"


def _in_words(path: Path | str, error: OSError) -> str:
    return f"{path}: could not be written ({error.strerror}); {ADVICE.get(error.errno, OTHER)}"
