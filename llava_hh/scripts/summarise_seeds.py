"""How far CHAIR and recall vary over runs that differ in their seed alone: mean, standard deviation, range.

Each run is a folder with the captions_eval_results.json of one seed (a fine-tuned model, a model trained anew, a draw
of random heads), all on the same images; what they are compared with is one run, or one for each seed.
"""

import argparse
from pathlib import Path

from llava_hh.command_line import errors_in_one_line, script_parser
from llava_hh.comparison import RESULT_FILE, read_scored, table_of_spread, truth_of
from llava_hh.data.coco import existing_file
from llava_hh.files import sha256, write_json
from llava_hh.metrics.compare import spread_over_runs
from llava_hh.runs import make_parent, processes, provenance
from llava_hh.tables import print_table


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--runs", type=Path, nargs="+", required=True, help="result folders, one per seed")
    add("--reference", type=Path, nargs="+", required=True, help="what to compare with: one folder, or one per seed")
    add("--out", type=Path, help="write all of it to this JSON file")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        if not processes().is_main:
            return
        files = [existing_file(folder / RESULT_FILE, "scored captions") for folder in [*args.runs, *args.reference]]
        scored = [read_scored(path) for path in files]
        sentences = [own for own, _ in scored]
        spread = spread_over_runs(sentences[: len(args.runs)], sentences[len(args.runs) :])
        for path, own in zip(files, scored, strict=True):
            if truth_of(*own) != truth_of(*scored[0]):
                raise ValueError(f"{path}: other ground truth or rules of CHAIR than {files[0]} has; score it anew")
        if args.out:
            make_parent(args.out)
            hashes = {str(path): sha256(path) for path in files}
            write_json(args.out, {**spread, "run": {**provenance(), "sha256": hashes}})
    print_table(table_of_spread({args.runs[0].parent.name or "runs": spread}))
    print(f"\n{spread['n']} images" + (f"\n{args.out}" if args.out else ""))


if __name__ == "__main__":
    main()
