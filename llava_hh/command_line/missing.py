"""One line where a package is not installed; imports nothing but the standard library, for it runs when others lack."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

INSTALL = "sh bash_scripts/quickstart.sh installs what requirements.txt lists (or pip install -r requirements.txt)"


@contextmanager
def missing_in_one_line(debug: bool = False) -> Iterator[None]:
    """Print one line and exit with status 2 if a package of others cannot be found; with `debug`, raise its error."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if debug or name in ("", "llava_hh"):
            raise
        print(f"error: {name} is not installed; {INSTALL}", file=sys.stderr)
        raise SystemExit(2) from None
