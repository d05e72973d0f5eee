"""Modes of files: whether they are what the umask says."""

import tempfile
from pathlib import Path
from stat import S_IMODE


def of_other_modes(folder: Path) -> list[str]:
    """The files below a folder that have another mode than one that `open` makes now, and at least one other file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files, folder
    with tempfile.TemporaryDirectory() as elsewhere:
        plain = Path(elsewhere) / "plain"
        plain.touch()
        mode = S_IMODE(plain.stat().st_mode)
    return [str(path.relative_to(folder)) for path in files if S_IMODE(path.stat().st_mode) != mode]
