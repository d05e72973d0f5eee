"""What --screen and --race save, and what they miss, against a finished exact attribution of the same captions.

Runs both (a killed run goes on). An exact evaluation is one head at one word. Score lost: how far the mean contrastive
influence of the k heads found is below that of the exact top k, as a share of the latter; both by the exact
attribution.
"""

import argparse
from pathlib import Path

import numpy as np
from measuring import REPO, benchmark_parser, finish

from llava_hh.command_line.numbers import SIZE
from llava_hh.files.files import read_json
from llava_hh.files.tables import markdown_table
from llava_hh.scripts import attribute

CAPTIONS = REPO / "results" / "mini" / "full" / "train2014"


def measure(kind: str, number: int, exact: dict, out: Path, flags: list[str], k: int) -> dict:
    """One row of the table: attribution of a shortlist, beside the exact result."""
    attribute.main([*flags, "--limit", str(exact["n_captions"]), "--out", str(out), f"--{kind}", str(number)])
    found = read_json(out / "attribution_result.json")
    scores = np.array(exact["contrastive_influence"])
    best, chosen = ([tuple(head) for head in result["hal_heads"][:k]] for result in (exact, found))
    reached, possible = (np.mean([scores[head] for head in heads]) for heads in (chosen, best))
    done = found["shortlist"]["exact_evaluations"]
    return {
        "kind": f"--{kind} {number}",
        "exact_evaluations": done,
        "of": found["shortlist"]["of"],
        "ratio": found["shortlist"]["of"] / done,
        "in_exact_top_k": len(set(chosen) & set(best)),
        "score_lost": float(1 - reached / possible),
        "seconds": read_json(out / "run.json")["seconds"],
    }


def parser() -> argparse.ArgumentParser:
    flags = benchmark_parser(__doc__)
    add = flags.add_argument
    add("--exact", type=Path, default=CAPTIONS / "identify_attention_head", help="folder of the exact attribution")
    add("--captions", type=Path, default=CAPTIONS / "captions_eval_results.json", help="its captions")
    add("--model", type=Path, default=REPO / "checkpoints" / "mini" / "model", help="its model")
    add("--image-folder", type=Path, default=REPO / "dataset" / "mini" / "train2014", help="its images")
    add("--k", type=SIZE, default=10, help="length of the list that is compared, and that --race looks for")
    add("--screen", type=SIZE, default=30, help="how many heads the screen measures")
    add("--out", type=Path, default=REPO / "results" / "mini" / "shortlists", help="folder of the two runs")
    return flags


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    exact = read_json(args.exact / "attribution_result.json")
    flags = ["--model", args.model, "--captions", args.captions, "--image-folder", args.image_folder]
    flags = [str(flag) for flag in flags]
    rows = [
        measure(kind, number, exact, args.out / kind, flags, args.k)
        for kind, number in (("screen", args.screen), ("race", args.k))
    ]
    exact_seconds = read_json(args.exact / "run.json")["seconds"]
    lines = [("exact", f"{rows[0]['of']:,}", "1.0x", args.k, "0.0%", f"{exact_seconds:.0f}")]
    for row in rows:
        cells = (row["kind"], f"{row['exact_evaluations']:,}", f"{row['ratio']:.1f}x", row["in_exact_top_k"])
        lines.append((*cells, f"{row['score_lost']:.1%}", f"{row['seconds']:.0f}"))
    header = ("attribution", "exact evaluations", "fewer", f"of the exact top {args.k}", "score lost", "seconds")
    content = {"k": args.k, "n_captions": exact["n_captions"], "rows": rows}
    finish(markdown_table(header, lines), content, args.json, f"{exact['n_captions']} captions")


if __name__ == "__main__":
    main()
