"""What `llava-hh download` does: find out what a profile lacks, print it, fetch it, test it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llava_hh.command_line.profiles import REPO, training_checkpoints
from llava_hh.files.disk import in_bytes, refuse_full
from llava_hh.files.locks import hold
from llava_hh.files.progress import say
from llava_hh.models.hub import Listing, fetch, local_folder, look, refuse_other_content
from llava_hh.models.hub_id import read_id
from llava_hh.supplies.coco_archives import lacking, unpack
from llava_hh.supplies.fetching import fetch_file, size_of
from llava_hh.supplies.published import SINGLE, Source, sources_of

# settings of a profile that name checkpoints, by part; "coco" has none
PARTS = {"model": ("model_path",), "figures": ("base_model", "reference_model")}
PARTS |= {"halc": ("halc_detector", "halc_scorer"), "coco": ()}
MINI = "checkpoints/mini/"


@dataclass(frozen=True)
class File:
    """A file of another server than the hub: its address, where it goes, its bytes."""

    url: str
    path: Path
    size: int

    @property
    def begun(self) -> Path:
        """Where it lies until it is whole."""
        return self.path.with_name(f"{self.path.name}.fetched")

    def left(self) -> int:
        """Bytes that are still to be fetched."""
        return 0 if self.path.exists() else self.size - (self.begun.stat().st_size if self.begun.exists() else 0)

    def fetch(self) -> Path:
        """Fetch what is not there; returns where it lies."""
        if self.path.exists():
            return self.path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fetch_file(self.url, self.begun, self.size)
        return self.begun


def download(profile: Mapping[str, str], parts: Iterable[str], coco_url: str) -> None:
    """Fetch the parts of a profile that are not there; what will be fetched is printed first.

    Raises:
        ValueError: a checkpoint that nobody publishes, or a file of another content than its source's.
        OSError: a server that cannot be reached or refuses, or a disk without room.
    """
    if profile["model_path"].startswith(MINI):
        raise ValueError(f"{profile['model_path']}: mini is made, not fetched; sh bash_scripts/quickstart.sh makes it")
    names = [*dict.fromkeys(name for part in parts for name in checkpoints_of(profile, part))]
    hub_ids = [hub_id for name in names if (hub_id := read_id(name, REPO))]
    of_model = [hub_id for name in checkpoints_of(profile, "model") if (hub_id := read_id(name, REPO))]
    paths = [REPO / name for name in names if not read_id(name, REPO)]
    sources = [*dict.fromkeys(source for path in paths for source in sources_of(path))]
    coco = REPO / profile["coco_path"]
    wanted = lacking(coco) if "coco" in parts else {}
    for text in (*hub_ids, *sources, *(f"{coco}: {coco_url}/{archive}" for archive in wanted)):
        say(text)

    listings = [_listing_of(source) for source in sources if source.hub_id]
    files = [_file(source.url, source.path) for source in sources if source.url]
    archives = {_file(f"{coco_url}/{name}", coco / PurePosixPath(name).name): to for name, to in wanted.items()}
    for listing in listings:
        say(listing.describe())
    for file in (*files, *archives):
        say(f"{file.url}: {in_bytes(file.left())} to fetch, of {in_bytes(file.size)}")
    refuse_full(_room(listings, files, [*archives]))

    for hub_id in hub_ids:
        say(local_folder(hub_id, any_kind=hub_id not in of_model))
    fetch(listings)
    for listing in listings:
        refuse_other_content(listing)
    for file in files:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        with hold(file.path.parent):
            file.fetch().rename(file.path)
    if archives:
        coco.mkdir(parents=True, exist_ok=True)
        with hold(coco):
            for archive, targets in archives.items():
                unpack(archive.fetch(), targets)
                archive.begun.unlink(missing_ok=True)


def checkpoints_of(profile: Mapping[str, str], part: str) -> list[str]:
    """The checkpoints that a profile names for a part; a name of mini's own tools is none."""
    names = [profile[name] for name in PARTS[part]] + (training_checkpoints(profile) if part == "figures" else [])
    return [name for name in names if name not in ("", "mini")]


def _listing_of(source: Source) -> Listing:
    is_file = source.path.suffix == SINGLE
    top = source.path.parent if is_file or source.inside else source.path
    return look(source.hub_id, top, source.inside, source.path.name if is_file else None, any_kind=True)


def _file(url: str, path: Path) -> File:
    return File(url, path, path.stat().st_size if path.exists() else size_of(url))


def _room(listings: Sequence[Listing], files: Sequence[File], archives: Sequence[File]) -> dict[Path, float]:
    """Bytes that are needed, by where; an archive and its content are there together for a while."""
    needed: dict[Path, float] = {listing.folder: sum(listing.lacking().values()) for listing in listings}
    needed |= {file.path: file.left() for file in files}
    content, largest = sum(file.size for file in archives), max((file.left() for file in archives), default=0)
    return needed | ({archives[0].path: content + largest} if archives else {})
