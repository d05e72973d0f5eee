"""Checkpoints by their names on the Hugging Face hub: found in the local cache, or else fetched by huggingface_hub.

Only what a user names as org/name is fetched, with what such a repository names as its vision tower or base language
model. Whatever is whole in the cache is used without asking a server.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from llava_hh.files.disk import in_bytes, refuse_full
from llava_hh.files.files import in_one_line, read_json, sha256
from llava_hh.files.processes import processes
from llava_hh.files.progress import announce, is_on_terminal
from llava_hh.models.families import FAMILIES
from llava_hh.models.hub_cache import cached, files_to_load, index_in
from llava_hh.models.hub_id import HubId, read_id
from llava_hh.models.original_fields import KNOWN_TOWERS, TOWER, check_supported, find_folder, has_tower, is_original
from llava_hh.models.weight_files import WHOLE, weight_files, weight_map

if TYPE_CHECKING:
    from huggingface_hub import RepoFile, ResolvedRevision


def local_folder(named: str | Path | HubId, any_kind: bool = False) -> Path:
    """The folder of a checkpoint that a user named; a repository of the hub is fetched if the cache lacks it.

    Of several processes the first fetches, and the others wait.

    Args:
        named: a folder, or org/name or org/name@revision; a Path is always a folder.
        any_kind: whether it may be another model than those of FAMILIES, such as a base language model or a detector.
    Raises:
        FileNotFoundError: a repository without a checkpoint, or not in the cache of this process's machine.
        ValueError: a repository with a model of another kind, with code that it needs, or with a LoRA adapter.
        OSError: it cannot be fetched, or the disk has no room; one line that says what to do.
    """
    hub_id = read_id(named) if isinstance(named, str) else named
    return _snapshot(hub_id, any_kind) if isinstance(hub_id, HubId) else Path(named)  # type: ignore[arg-type]


@cache
def _snapshot(hub_id: HubId, any_kind: bool) -> Path:
    processes().first(partial(make_whole, hub_id, any_kind))
    if (folder := cached(hub_id)) is None:
        raise FileNotFoundError(f"{hub_id}: not in the cache of this machine; let all share HF_HOME, or {ways(hub_id)}")
    return folder


def make_whole(hub_id: HubId, any_kind: bool) -> None:
    """Fetch what the local cache lacks of a repository and of those that it names; raises as `local_folder`."""
    folder, listings = cached(hub_id), []
    if folder is None:
        listings.append(look(hub_id, any_kind=any_kind))
        folder = listings[0].folder
    files = listings[0].files if listings else {path.name for path in folder.iterdir()}
    fetch([*listings, *(look(beside, any_kind=True) for beside in named_beside(folder, files))])


def named_beside(folder: Path, files: Collection[str]) -> list[HubId]:
    """The repositories that an original LLaVA needs beside it, as its config.json names them, and that are not here.

    The index of its weights says whether they hold the vision tower, or the weights themselves where they are there
    already. Else the tower counts as needed.

    Args:
        files: names of what the folder has, or will have.
    """
    fields = read_json(folder / "config.json")
    if not is_original(fields):
        return []
    tower, base = str(fields["mm_vision_tower"]), str(fields.get("_name_or_path"))
    if index := index_in(files):
        holds_tower = any(name.startswith(TOWER) for name in weight_map(folder / index))
    else:
        holds_tower = has_tower(weight_files(folder))
    names = [] if holds_tower and Path(tower).name in KNOWN_TOWERS else [tower]
    names += [] if index or {*WHOLE} & {*files} else [base]
    return [hub_id for name in names if (hub_id := read_id(name)) and not _is_here(name, folder)]


def _is_here(name: str, folder: Path) -> bool:
    try:
        return bool(find_folder(name, folder, ""))
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class Listing:
    """The files of a repository that are to be fetched into a folder, as the hub lists them.

    files: by name; inside: the folder of the repository that they are in, "" for its top; root: the folder that stands
    for the repository, None where that is the cache.
    """

    hub_id: HubId
    revision: ResolvedRevision
    folder: Path
    files: dict[str, RepoFile]
    inside: str = ""
    root: Path | None = None

    def lacking(self) -> dict[str, int]:
        """Bytes of each file that is not in the folder."""
        return {name: file.size for name, file in self.files.items() if not (self.folder / name).is_file()}

    def describe(self) -> str:
        """What would be fetched: repository, commit, number of files, bytes, folder."""
        lacking = self.lacking()
        what = f"{len(lacking)} file{'s' * (len(lacking) != 1)}, {in_bytes(sum(lacking.values()))}"
        named = f"{self.hub_id}, commit {self.revision.resolved[:12]}"
        return f"{named}: {what}, into {self.folder}" if lacking else f"{named}: all there, in {self.folder}"


def look(
    hub_id: HubId, root: Path | None = None, inside: str = "", only: str | None = None, any_kind: bool = False
) -> Listing:
    """Ask the hub what a repository has; of its files only config.json and the weights' index are fetched.

    Args:
        root: the folder that its files go to; None is the cache. Files that are there are kept.
        inside: the folder of the repository that holds the checkpoint.
        only: the one file that is wanted; None: what loading a checkpoint reads.
        any_kind: as for `local_folder`, which also says what is raised.
    """
    from huggingface_hub import HfApi, RepoFile, constants

    if constants.is_offline_mode():
        where = f"not (whole) in the cache, {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set"
        raise FileNotFoundError(f"{hub_id}: {where}; {ways(hub_id)}")
    with explained(hub_id):
        api = HfApi()
        revision = api.resolve_revision(hub_id.name, revision=hub_id.revision)
        entries = api.list_repo_tree(hub_id.name, inside or None, revision=revision.resolved)
        tree = {PurePosixPath(entry.path).name: entry for entry in entries if isinstance(entry, RepoFile)}
    if only:
        if only not in tree:
            raise FileNotFoundError(f"{hub_id}: no {only} there; it has {', '.join(sorted(tree))}")
        return Listing(hub_id, revision, root or Path(), {only: tree[only]}, inside, root)
    first = [name for name in ("config.json", index_in(tree)) if name in tree]
    folder = _download(hub_id, revision, root, inside, first)
    try:
        names = files_to_load(tree, folder)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{hub_id}: {error}") from None
    refuse_other_kinds(hub_id, read_json(folder / "config.json"), any_kind)
    return Listing(hub_id, revision, folder, {name: tree[name] for name in names}, inside, root)


def refuse_other_kinds(hub_id: HubId, fields: dict, any_kind: bool) -> None:
    """Refuse, before its weights are fetched, a repository that could not be loaded.

    Raises:
        ValueError: it is of no family of ours, and its config.json names code (auto_map) or `any_kind` is not set; or
            an original LLaVA with other parts than those of 1.5 and 1.6.
    """
    kind = fields.get("model_type")
    if is_original(fields):
        check_supported(Path(str(hub_id)), fields)
        return
    if kind in FAMILIES:
        return
    if "auto_map" in fields:
        what = "Python code of its own (trust_remote_code: auto_map in config.json), which is never run"
        raise ValueError(f"{hub_id}: model type {kind!r} needs {what}; supported: {', '.join(FAMILIES)}")
    if not any_kind:
        raise ValueError(f"{hub_id}: model type {kind!r} is not supported; supported: {', '.join(FAMILIES)}")


def fetch(listings: Sequence[Listing]) -> None:
    """Fetch what is not there; each repository is announced before, and the room on the disk is checked.

    Raises:
        OSError: a repository cannot be fetched, or the disk has no room.
        ValueError: what came is not what the hub says, by its sha256.
    """
    wanted = [listing for listing in listings if listing.lacking()]
    for listing in wanted:
        announce(f"fetching {listing.describe()}")
    is_cache = all(listing.root is None for listing in wanted)
    advice = "set HF_HOME to another disk" if is_cache else "choose a folder on another disk"
    refuse_full({listing.folder: sum(listing.lacking().values()) for listing in wanted}, advice)
    for listing in wanted:
        _download(listing.hub_id, listing.revision, listing.root, listing.inside, [*listing.lacking()])
        if listing.root is None:
            _refuse_in_cache(listing)


def _refuse_in_cache(listing: Listing) -> None:
    """Refuse other content, and take it out of the cache, where the next command would find it whole."""
    try:
        refuse_other_content(listing)
    except ValueError:
        for path in _of_other_content(listing):
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        raise


def refuse_other_content(listing: Listing) -> None:
    """Check that the large files of a folder are the hub's, by the sha256 that it names.

    Raises:
        ValueError: one is not; names it.
    """
    if wrong := _of_other_content(listing):
        what = f"not what {listing.hub_id} has under this name, by its sha256"
        raise ValueError(f"{wrong[0]}: {what}; delete it and give the same command again")


def _of_other_content(listing: Listing) -> list[Path]:
    large = {listing.folder / name: file.lfs.sha256 for name, file in listing.files.items() if file.lfs}
    return [path for path, digest in large.items() if sha256(path) != digest]


def _download(hub_id: HubId, revision: ResolvedRevision, root: Path | None, inside: str, names: Sequence[str]) -> Path:
    """Fetch these files if they are not there; returns their folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    if not is_on_terminal():
        disable_progress_bars()
    if root is not None:
        names = [name for name in names if not (root / inside / name).exists()]
        if not names:
            return root / inside
    patterns = [glob.escape(str(PurePosixPath(inside, name))) for name in names]
    with explained(hub_id):
        where = snapshot_download(hub_id.name, revision=revision, local_dir=root, allow_patterns=patterns)
    return Path(where) / inside


@contextmanager
def explained(hub_id: HubId) -> Iterator[None]:
    """Let errors of huggingface_hub say in one line what is wrong, and what else can be done."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.HTTPError, errors.RevisionResolutionError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        raise OSError(f"{hub_id}: {_why(hub_id, error)}; {ways(hub_id)}") from error


def _why(hub_id: HubId, error: Exception) -> str:
    from huggingface_hub import constants, errors, get_token

    if isinstance(error, errors.LocalEntryNotFoundError | errors.RevisionResolutionError) and error.__cause__:
        error = error.__cause__  # type: ignore[assignment]
    hub, has_token = constants.ENDPOINT, get_token() is not None
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return f"no revision {hub_id.revision or 'main'!r} there; expected a branch, a tag or a commit"
    if isinstance(error, errors.EntryNotFoundError) and status == 404:
        return "what is wanted is not in it (404)"
    if isinstance(error, errors.GatedRepoError):
        page = f"{hub}/{hub_id.name}"
        if has_token:
            return (
                f"a gated repository ({status}), which the account of HF_TOKEN may not read; ask for access at {page}"
            )
        return f"a gated repository ({status}); accept its terms at {page}, and set HF_TOKEN to a token of yours"
    if isinstance(error, errors.RepositoryNotFoundError):
        private = "the account of HF_TOKEN may not read" if has_token else "HF_TOKEN has to be set for"
        return f"no such repository at {hub} ({status}), or a private one that {private}"
    if status in (401, 403):
        return f"{hub} refuses the token of HF_TOKEN ({status}: {'not valid' if status == 401 else 'not allowed'})"
    return f"{hub} answers with status {status}" if status else f"{hub} cannot be reached ({in_one_line(error)})"


def ways(hub_id: HubId) -> str:
    """What a user can do where a repository cannot be had."""
    revision = f" --revision {hub_id.revision}" if hub_id.revision else ""
    return f"fetch it by `hf download {hub_id.name}{revision}`, or give the path of a folder with its files"
