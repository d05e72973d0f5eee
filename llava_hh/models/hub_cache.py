"""The hub's cache on this machine, read without asking a server: what loading reads, and whether all of it is there."""

from collections.abc import Collection
from pathlib import Path

from llava_hh.models.hub_id import HubId
from llava_hh.models.weight_files import ADAPTER, DESCRIBES, PROJECTOR, WHOLE, shards_of


def cached(hub_id: HubId) -> Path | None:
    """The folder of a repository in the local cache; None where it is not there, or lacks a file that loading reads.

    A cache that another program filled may lack the list of the repository's files; then weights decide.
    """
    from huggingface_hub import errors, get_cached_repo_tree, try_to_load_from_cache

    config = try_to_load_from_cache(hub_id.name, "config.json", revision=hub_id.revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    try:
        names = {file.path for file in get_cached_repo_tree(hub_id.name, revision=folder.name) if "/" not in file.path}
    except errors.CachedRepoTreeNotFoundError:
        names = {file.name for file in folder.iterdir()}
    try:
        files = files_to_load(names, folder)
    except (FileNotFoundError, ValueError):
        return None
    return folder if all((folder / name).is_file() for name in files) else None


def files_to_load(names: Collection[str], folder: Path) -> list[str]:
    """Which of a repository's files loading reads: what describes the model, and its weights in one format.

    Files in folders of the repository, such as original/, are none of them.

    Args:
        folder: where the weights' index is, if the repository has one.
    Raises:
        FileNotFoundError: no config.json, no weights, or an index that is not in `folder`.
        ValueError: a LoRA adapter, or an index that names other files than there are.
    """
    index = index_in(names)
    if "config.json" not in names:
        raise FileNotFoundError("no config.json there; expected a repository with a checkpoint")
    if adapters := sorted({*ADAPTER} & {*names}):
        raise ValueError(f"has {adapters[0]}, a LoRA adapter; merge it into its base model, and take that folder")
    if index:
        weights = shards_of(folder / index)
        if absent := [name for name in weights if name not in names]:
            raise ValueError(f"{index} names {absent[0]}, which the repository lacks")
    else:
        weights = [name for name in (*WHOLE, PROJECTOR) if name in names][:1]
    if not weights:
        raise FileNotFoundError(f"no weights there; expected {' or '.join(WHOLE)}, whole or as shards with their index")
    indices = {f"{name}.index.json" for name in WHOLE} - {index}
    return sorted({name for name in names if DESCRIBES.fullmatch(name)} - indices) + weights


def index_in(names: Collection[str]) -> str | None:
    """The index of the weights that are loaded, safetensors before .bin; None where they are one file."""
    for name in WHOLE:
        if (index := f"{name}.index.json") in names or name in names:
            return index if index in names else None
    return None
