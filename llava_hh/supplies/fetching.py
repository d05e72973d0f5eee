"""Files over HTTP, such as COCO's archives, which go on where they were cut off."""

import re
import time
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError

from tqdm import tqdm

from llava_hh.files.progress import progress

TIMEOUT = 30.0  # seconds without a byte
TRIES = 5  # in a row that bring no byte
PAUSE = 2.0  # seconds between tries
PIECE = 1 << 20
PASSING = (408, 429)  # answers after which it is worth to try again, besides errors of the server

CUT_OFF = (URLError, HTTPException, TimeoutError, ConnectionError)


def size_of(url: str) -> int:
    """The bytes of a file, as its server says.

    Raises:
        OSError: it cannot be reached, lacks the file, or does not say; one line.
    """
    try:
        with _opened(url, "HEAD") as answer:
            said = answer.headers.get("Content-Length", "")
    except CUT_OFF as error:
        raise OSError(f"{url}: {_in_words(error)}") from None
    if not said.isdecimal():
        raise OSError(f"{url}: its server does not say how large it is")
    return int(said)


def fetch_file(url: str, path: Path, size: int) -> None:
    """Fetch a file of this size, behind what an earlier call left at `path`.

    Raises:
        OSError: it stays cut off, the server lacks it, or `path` holds more; one line. What was fetched is kept.
    """
    tries = TRIES
    with progress(path.name, "B", total=size, unit_scale=True) as bar:
        while (done := _size(path)) != size:
            if done > size:
                raise OSError(f"{path}: {done} bytes, and {url} has {size}; delete it and give the same command again")
            bar.update(done - bar.n)
            problem = _go_on(url, path, done, bar)
            tries = TRIES if _size(path) > done else tries - 1
            if not tries:
                where = f"cut off after {_size(path)} of {size} bytes ({problem})"
                raise OSError(f"{url}: {where}; give the same command again, it goes on from there")
            if _size(path) < size:
                time.sleep(PAUSE)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _go_on(url: str, path: Path, done: int, bar: tqdm) -> str:
    """Fetch what is behind the first bytes, as far as the connection holds; returns why it ended."""
    try:
        with _opened(url, "GET", {"Range": f"bytes={done}-"} if done else {}) as answer:
            if answer.status == 206 and not re.match(rf"bytes {done}-", answer.headers.get("Content-Range", "")):
                raise OSError(f"{url}: its server sends another part than it was asked for")
            with open(path, "ab" if answer.status == 206 else "wb") as file:  # 200: it begins anew
                while piece := answer.read(PIECE):
                    try:
                        file.write(piece)
                    except OSError as error:
                        raise OSError(error.errno, error.strerror, str(path)) from None
                    bar.update(len(piece))
        return "the connection ended"
    except CUT_OFF as error:
        if isinstance(error, HTTPError) and error.code < 500 and error.code not in PASSING:
            raise OSError(f"{url}: {_in_words(error)}") from None
        return _in_words(error)


def _opened(url: str, method: str, headers: dict[str, str] | None = None) -> HTTPResponse:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url}: expected an address that begins with http:// or https://")
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}, method=method), timeout=TIMEOUT)


def _in_words(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"its server answers {error.code} {error.reason}"
    return f"cannot be reached ({getattr(error, 'reason', error) or type(error).__name__})"
