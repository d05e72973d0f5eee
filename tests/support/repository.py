"""The repository's folder and the modules of its packages."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "llava_hh"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
# links, which PACKAGE.rglob does not follow
BASELINES = sorted(path for path in (PACKAGE / "baselines").rglob("*.py") if path.name != "__init__.py")
NEWER = sorted(path for path in (PACKAGE / "newer_models").rglob("*.py") if path.name != "__init__.py")
