"""A second run of a command after one change, and what changes files."""

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from .children import run_to_the_end
from .material import Script

OTHER = {"DTYPE": "bfloat16"}  # variables of another run


@dataclass
class Case:
    """A script with the flags, variables and result folder of its second run; a change works on these."""

    folder: Path
    script: Script
    flags: list[object]
    out: Path
    rng: random.Random
    variables: dict[str, str] = field(default_factory=dict)

    def value(self, flag: str) -> object | None:
        return self.flags[self.flags.index(flag) + 1] if flag in self.flags else None

    def replace(self, flag: str, value: object) -> None:
        self.flags[self.flags.index(flag) + 1] = value

    @property
    def model(self) -> Path:
        return Path(self.value("--model") or self.value("--reference"))

    def blocks(self, ending: str = "json") -> list[Path]:
        return sorted(self.out.rglob(f"blocks/*.{ending}"))

    def images(self) -> list[Path]:
        return sorted(path for path in Path(self.value("--image-folder")).rglob("*") if path.suffix in (".jpg", ".png"))

    def other_run(self) -> Path:
        """The results of a run of the same command with other variables."""
        out = self.folder / "other"
        shutil.rmtree(out, ignore_errors=True)
        run_to_the_end(self.script.main, (*self.flags, "--out", out), self.folder / "log", variables=OTHER)
        return out


@dataclass(frozen=True)
class Change:
    """A change of the state.

    Args:
        make: makes it; False where it cannot be made of this case.
        needs: flags, of which the script has to have one.
        named: words, of which an error has to have one; without any the command has to go on.
        blocks_differ: from those of a run that never had another limit.
        folders_stay: methods are others then, and have other folders; those of the first stay as they were.
    """

    make: Callable[[Case], object]
    needs: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    blocks_differ: bool = False
    folders_stay: bool = False

    @property
    def name(self) -> str:
        return self.make.__name__.replace("_", " ")

    def applies(self, script: Script) -> bool:
        return not self.needs or any(flag in script.flags for flag in self.needs)


def rewrite(path: Path, change: Callable[[object], object]) -> None:
    """Change a JSON file; `change` works in place, or returns the new content."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def spoil(folder: Path, rng: random.Random) -> None:
    """Add noise to one matrix of a checkpoint's layers; sizes, dates and names stay."""
    path = folder / "model.safetensors"
    state, tensors = path.stat(), load_file(path)
    name = rng.choice(sorted(name for name in tensors if ".layers." in name and "self_attn" in name))
    noise = torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(rng.randrange(10**6)))
    tensors[name] = tensors[name] + 0.5 * noise.to(tensors[name].dtype)
    save_file(tensors, path, metadata={"format": "pt"})
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def repaint(path: Path, rng: random.Random) -> None:
    pixels = np.random.default_rng(rng.randrange(10**6)).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def weights(case: Case) -> None:
    spoil(case.model, case.rng)


def dtype(case: Case) -> None:
    case.variables.update(OTHER)
