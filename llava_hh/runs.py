"""A run's folder: provenance, fixed blocks, resumable JSON lines, atomic JSON."""

import json
import os
from pathlib import Path


def write_json(path: Path, content: object) -> None:
    """Write a JSON file so that a reader finds the old one or the new one, never a part."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; its folder is made if it isn't there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
