"""One Markdown page of the paper's figures: each picture with a sentence that its JSON file supports."""

from pathlib import Path

from llava_hh.figures.findings import FIGURES
from llava_hh.files.files import write_text
from llava_hh.runs.run import processes

TITLE = "# Figures\n"


def page(results: Path) -> str:
    """The text of the page: the figures of every draw of images, and the scripts of those that are missing."""
    parts = [TITLE]
    for finding in FIGURES:
        parts.append(f"## {finding.title}\n")
        sources = sorted(results.glob(f"*/{finding.file}"))
        for source in sources:
            seen, link = finding.seen_in(source), source.relative_to(results)
            if source.with_suffix(".png").is_file():
                parts.append(f"![{finding.title}]({link.with_suffix('.png')})\n")
            parts.append(f"{seen} Numbers: [{link}]({link})\n")
        if not sources:
            parts.append(f"Not made yet: `{finding.command}`\n")
    return "\n".join(parts)


def write_page(results: Path) -> Path | None:
    """Write figures.md into a profile's result folder, and return it; None for a process that is not the first.

    Raises:
        FileNotFoundError: no such folder.
        FileExistsError: the file is there and no run of ours wrote it.
    """
    if not results.is_dir():
        raise FileNotFoundError(f"{results}: no such folder")
    if not processes().is_main:
        return None
    path = results / "figures.md"
    if path.exists() and not path.read_bytes().startswith(TITLE.encode()):
        raise FileExistsError(f"{path}: is there already, and no run of ours wrote it; move it")
    write_text(path, page(results))
    return path
