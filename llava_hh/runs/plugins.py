"""Python files of users, given as `--plugin`, which register methods, metrics, families or figures."""

import importlib.util
import sys
from pathlib import Path

from llava_hh.files.files import in_one_line, sha256
from llava_hh.runs.settings import digest_of

PLUGINS: dict[str, str] = {}  # files that were run, by name, with their sha256


def load_plugin(path: Path) -> None:
    """Run a Python file that registers methods, families or figures.

    Raises:
        OSError: no such file.
        ValueError: it fails; names the file and says why.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--plugin {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"llava_hh_plugin_{digest_of(str(path.resolve()))[:8]}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"--plugin {path}: {type(error).__name__}: {in_one_line(error)}") from error
    PLUGINS[path.name] = sha256(path)
