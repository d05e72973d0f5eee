"""What the results of mini's build were made of, kept beside them, so that none is taken for another."""

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
        seed, step: None where the stage has none; inputs: what `identify` says of each.
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
    """Whether a result is there, of the same seed, step and inputs. If none is, what it will be made of is kept.

    It is kept beside `beside`, or the result itself. A result without it (a committed one, or of an earlier version)
    counts as made with the usual seed and step, of any inputs. Inputs that are not there any more are not compared.

    Raises:
        ValueError: it was made of something else; names the differences.
    """
    present = {name: path for name, path in inputs.items() if path.exists()}
    kept = beside or result
    record = kept.with_name(f"{kept.name}.made_of.json")
    if not result.exists():
        now = MadeOf(stage, {name: identify(path) for name, path in present.items()}, seed, step)
        write_json(record, {"settings": now.record(), **provenance()})
        return False
    if record.exists():
        before = read_json(record)["settings"]
        now = MadeOf(stage, {name: identify(path) for name, path in present.items()}, seed, step)
        before["inputs"] = {name: known for name, known in before["inputs"].items() if name in present}
    else:
        now = MadeOf(stage, {}, seed, step)
        before = {**now.record(), **{name: value for name, value in USUAL.items() if name in now.record()}}
    if changed := differences(before, now):
        raise ValueError(f"{result}: is there, made otherwise: {'; '.join(changed)}. Name a new folder, or delete it")
    return True
