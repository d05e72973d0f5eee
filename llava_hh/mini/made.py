"""Records beside the results of mini's build: what each was made of, so that none is taken for another."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_hh.files.files import read_json, write_json
from llava_hh.mini.recipe import SAVED_STEPS, SEED
from llava_hh.runs.identity import identify
from llava_hh.runs.run import provenance
from llava_hh.runs.settings import Settings, differences

USUAL = {"seed": SEED, "step": SAVED_STEPS[-1]}


@dataclass(frozen=True)
class MadeOf(Settings):
    """What decides the result of a stage.

    Args:
        inputs: the identity of each, see `identify`.
        seed, step: None where the stage has none.
    """

    stage: str
    inputs: dict
    seed: int | None = None
    step: int | None = None


def is_made(
    result: Path,
    stage: str,
    inputs: Mapping[str, Path],
    seed: int | None = None,
    step: int | None = None,
    beside: Path | None = None,
) -> bool:
    """Whether a result exists, of the same seed, step and inputs. If none exists, record what it will be made of.

    The record stands beside `beside`, or beside the result. A result without a record (a committed one, or one of an
    earlier version) counts as made with the usual seed and step, of any inputs. Missing inputs are not compared.

    Raises:
        ValueError: the result was made of something else; names the differences.
    """
    kept = beside or result
    record = kept.with_name(f"{kept.name}.made_of.json")
    compared = {} if result.exists() and not record.exists() else inputs
    now = MadeOf(stage, {name: identify(path) for name, path in compared.items() if path.exists()}, seed, step)
    if not result.exists():
        write_json(record, {"settings": now.record(), **provenance()})
        return False
    usual = {name: USUAL.get(name, value) for name, value in now.record().items()}
    before = read_json(record)["settings"] if record.exists() else usual
    before["inputs"] = {name: known for name, known in before["inputs"].items() if name in now.inputs}
    if changed := differences(before, now):
        raise ValueError(f"{result}: is there, made otherwise: {'; '.join(changed)}. Name a new folder, or delete it")
    return True
