"""How far CHAIR and recall vary over runs that differ in their seed alone: mean, standard deviation, range."""

from collections.abc import Sequence
from pathlib import Path

from llava_hh.comparing.inputs import made_of
from llava_hh.comparing.summary import table_of_spread
from llava_hh.data.coco import existing_file
from llava_hh.files.files import write_json
from llava_hh.files.progress import say
from llava_hh.files.tables import beside, print_table
from llava_hh.metrics.statistics import spread_over_runs
from llava_hh.runs.run import make_parent, processes
from llava_hh.runs.scored import RESULT_FILE, read_scored, truth_of


def compare_seeds(runs: Sequence[Path], reference: Sequence[Path], out: Path | None, form: str) -> None:
    """Print the spread of runs and of their differences from the reference, and write it to the file `out`.

    Args:
        runs: result folders, one per seed; reference: one folder, or one per seed.
        form: of the table, one of `llava_hh.files.tables.FORMATS`.
    Raises:
        FileNotFoundError: a folder without scored captions.
        ValueError: other images, ground truth or rules of CHAIR in one of them.
    """
    if not processes().is_main:
        return
    files = [existing_file(folder / RESULT_FILE, "scored captions") for folder in [*runs, *reference]]
    scored = {path: read_scored(path) for path in files}
    sentences = [scored[path][0] for path in files]
    spread = spread_over_runs(sentences[: len(runs)], sentences[len(runs) :])
    for path in files:
        if truth_of(*scored[path]) != truth_of(*scored[files[0]]):
            raise ValueError(f"{path}: other ground truth or rules of CHAIR than {files[0]} has; score it anew")
    if out:
        make_parent(out)
        write_json(out, {**spread, "run": made_of(files)})
    print_table(table_of_spread({runs[0].parent.name or "runs": spread}), form)
    say(f"\n{spread['n']} images" + (f"\n{out}" if out else ""), file=beside(form))
