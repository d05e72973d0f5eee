"""Loading a folder's files through transformers, without Python code of the folder and without kernels of the hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llava_hh.files.files import read_json

IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


def from_folder(kind: Any, folder: Path, **options: Any) -> Any:
    """`kind.from_pretrained` of a folder; `kind` is a class of transformers, `options` are from_pretrained's.

    Raises:
        ValueError: the folder cannot be loaded without its own code, or its config.json names a kernel of the hub.
    """
    refuse_hub_kernels(Path(folder) / "config.json")
    with _never_asking():
        try:
            return kind.from_pretrained(folder, trust_remote_code=False, **options)
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            what = "it needs Python code of its own (auto_map in a JSON file), which is never run"
            raise ValueError(f"{folder}: {what}; expected a checkpoint for transformers' own classes") from None


@contextmanager
def _never_asking() -> Iterator[None]:
    """Let transformers refuse code at once where it would ask on the terminal, as it does for some inner parts."""
    from transformers import dynamic_module_utils

    seconds = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = seconds


def refuse_hub_kernels(config: Path) -> None:
    """Check that a config.json, if it is there, names no attention or expert kernel of the hub, at any depth.

    Raises:
        ValueError: it does; transformers would fetch the kernel and run it.
    """
    for name, value in _named_implementations(read_json(config) if config.is_file() else {}):
        if "/" in value:
            what = f"{name} names {value!r}, a kernel of the hub, which is never run"
            raise ValueError(f"{config}: {what}; expected none, or one of transformers' own such as 'sdpa'")


def _named_implementations(content: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The implementations that a configuration asks for, each with its key; one key may hold a dict, by part."""
    if isinstance(content, str) and name:
        yield name, content
    elif isinstance(content, list):
        for entry in content:
            yield from _named_implementations(entry, name)
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _named_implementations(value, key if key in IMPLEMENTATIONS else name)
