"""Greedy decoding before and after TF-HH, after fine-tuning random heads, and AD-HH, on the same images: one table."""

import argparse
from pathlib import Path

from llava_hh.command_line import errors_in_one_line, script_parser
from llava_hh.comparison import LABELS, compare, summary_table, table_of_spread
from llava_hh.evaluation import Evaluation, heads_with_text
from llava_hh.files import read_json, read_json_lines, sha256, write_json
from llava_hh.flags import add_adhh_flags, add_sample_flags, evaluation_from_flags, heads_from_flags
from llava_hh.interventions import DeactivateText
from llava_hh.runs import processes

KEPT_LOG = ("loss", "ce", "attention_loss", "image_mass", "after_image_mass")


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add_sample_flags(parser, "val2014")
    add_adhh_flags(parser)
    add = parser.add_argument
    add("--tuned", type=Path, nargs="+", required=True, help="result folders of finetune, one per seed")
    add("--random-tuned", type=Path, nargs="*", default=[], help="the same with --random-heads")
    add("--summary", type=Path, help="the summary (default: summary.json in --out)")
    return parser


def captions_of_tuned(evaluation: Evaluation, folder: Path, out: Path) -> list[dict]:
    """The scored greedy captions of the model that a fine-tuning left."""
    path = folder / "model"
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no fine-tuned model there; run llava-hh finetune first")
    return evaluation.with_model(path).run(folder.name, [], out / folder.name)


def describe_tuning(folder: Path, captions: Path) -> dict:
    """Settings of a fine-tuning, which model was captioned, and where its log begins and ends (means of a tenth of it).

    Args:
        captions: the run folder of the captions of its model.
    """
    rows = [row for _, row in read_json_lines(folder / "log.jsonl")]
    tenth = max(1, len(rows) // 10)

    def mean(part: list[dict]) -> dict:
        return {name: round(sum(row[name] for row in part) / len(part), 5) for name in KEPT_LOG}

    run = read_json(folder / "run.json")
    settings = {name: value for name, value in run["settings"].items() if name != "model"}
    captioned = read_json(captions / "run.json")["settings"]["model"]["sha256"]
    ends = {"start": mean(rows[:tenth]), "end": mean(rows[-tenth:])}
    return {"settings": settings, "model_sha256": captioned, **ends, "seconds": run["seconds"]}


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        evaluation = evaluation_from_flags(args)
        heads = heads_with_text(evaluation.lvlm, heads_from_flags(args, evaluation.lvlm, args.top_k), refuse=True)
        adhh = [DeactivateText(tuple(heads), args.threshold)]
        greedy = evaluation.run("greedy", [], args.out / "greedy")
        switched_off = evaluation.run("AD-HH", adhh, args.out / "adhh")
        tuned = {folder.name: captions_of_tuned(evaluation, folder, args.out) for folder in args.tuned}
        randoms = [captions_of_tuned(evaluation, folder, args.out) for folder in args.random_tuned]
        if not processes().is_main:
            return
        settings = evaluation.record(adhh)
        settings |= {"heads_sha256": sha256(args.heads), "top_k": args.top_k, "threshold": args.threshold}
        summary = compare(
            {"greedy": greedy, "adhh": switched_off, **tuned},
            {"tfhh": list(tuned.values()), "random_heads_tuned": randoms},
            settings,
        )
        summary["settings"]["fine_tuning"] = {
            folder.name: describe_tuning(folder, args.out / folder.name) for folder in [*args.tuned, *args.random_tuned]
        }
        path = args.summary or args.out / "summary.json"
        write_json(path, summary)
        print(summary_table(summary))
        spreads = {
            LABELS[name]: entry["over_runs"] for name, entry in summary["methods"].items() if "over_runs" in entry
        }
        if spreads:
            print(f"\n{table_of_spread(spreads).markdown()}\n")
        print(path)


if __name__ == "__main__":
    main()
