"""Hooks of MkDocs: the site has README as its first page, and what pages link to outside docs/.

Links are written for GitHub: `../results/mini/x.png` in a page of docs/, `docs/x.md` in README. The site needs others.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = re.compile(r"\]\(\.\./([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README as index.md, and every file that a page links to above docs/, under its path in the repository."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=readme.replace("](docs/", "](")))
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    linked = {name for page in pages for name in OUTSIDE.findall(page.read_text(encoding="utf-8"))}
    linked |= set(re.findall(r"\]\((?!docs/|https:)([^)#\s]+)", readme))
    for name in sorted(name for name in linked if (ROOT / name).is_file()):  # --strict names the others
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links above docs/ as links within the site."""
    return markdown.replace("](../", "](")
