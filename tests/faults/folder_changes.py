"""Changes of a run's own folder: its record, blocks and arrays, gone, cut or of another run."""

import shutil

from .case import Case, dtype, weights


def no_run_json(case: Case) -> None:
    for path in case.out.rglob("run.json"):
        path.unlink()


def no_run_json_and_other_weights(case: Case) -> object:
    no_run_json(case)
    weights(case)
    return bool(case.blocks())


def no_run_json_and_other_dtype(case: Case) -> object:
    no_run_json(case)
    dtype(case)
    return bool(case.blocks())


def run_json_of_another(case: Case) -> object:
    if not case.blocks():
        return False
    other = case.other_run()
    for path in other.rglob("run.json"):
        own = case.out / path.relative_to(other)
        if any(own.parent.glob("blocks/*.json")):
            shutil.copy(path, own)
    dtype(case)
    return None


def block_of_another(case: Case) -> object:
    if not case.blocks():
        return False
    block, other = case.rng.choice(case.blocks()), case.other_run()
    for ending in (".json", ".safetensors"):
        source = other / block.relative_to(case.out).with_suffix(ending)
        if source.exists():
            shutil.copy(source, block.with_suffix(ending))
    return None


def arrays_of_another(case: Case) -> object:
    if not case.blocks("safetensors"):
        return False
    arrays, other = case.rng.choice(case.blocks("safetensors")), case.other_run()
    if not (source := other / arrays.relative_to(case.out)).exists():
        return False
    shutil.copy(source, arrays)
    return None


def arrays_cut(case: Case) -> object:
    if not case.blocks("safetensors"):
        return False
    path = case.rng.choice(case.blocks("safetensors"))
    content = path.read_bytes()
    path.write_bytes(content[: case.rng.randrange(len(content))])
    return None


def arrays_gone(case: Case) -> object:
    if not case.blocks("safetensors"):
        return False
    case.rng.choice(case.blocks("safetensors")).unlink()
    return None


def a_block_gone(case: Case) -> object:
    if not case.blocks():
        return False
    case.rng.choice(case.blocks()).unlink()
    return None
