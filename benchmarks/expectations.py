"""What a language model expects beside an object, before any tuning: of these expectations mini's pairs are made.

The lift of B beside A: log-probability of "a B" after "The image shows an A and" and after "There is an A and", their
mean, minus its mean over all A. In nats; 0 where A says nothing about B.
"""

import argparse
from pathlib import Path

import torch
from measuring import REPO, benchmark_parser, finish
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from llava_hh.files.tables import markdown_table
from llava_hh.mini.talk import article
from llava_hh.mini.world import CATEGORIES, SCENES
from llava_hh.models.without_code import from_folder

TEMPLATES = ("The image shows {} and", "There is {} and")


@torch.no_grad()
def lifts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, names: list[str]) -> torch.Tensor:
    """(A, B) nats: by how much A raises the log-probability of B above its mean over all A."""
    ends = [tokenizer(f" {article(name)}", add_special_tokens=False).input_ids for name in names]
    found = torch.zeros(len(names), len(names))
    for row, name in enumerate(names):
        for template in TEMPLATES:
            start = tokenizer(template.format(article(name))).input_ids
            batch = tokenizer.pad(
                {"input_ids": [start + end for end in ends]}, padding_side="right", return_tensors="pt"
            )
            logits = model(**batch).logits.log_softmax(-1)
            for column, end in enumerate(ends):  # the article has no part in it
                found[row, column] += sum(
                    logits[column, len(start) + index - 1, end[index]] for index in range(1, len(end))
                )
    return (found - found.mean(0)) / len(TEMPLATES)


def parser() -> argparse.ArgumentParser:
    flags = benchmark_parser(__doc__)
    flags.add_argument("--base", type=Path, default=REPO / "checkpoints" / "mini" / "base", help="the language model")
    return flags


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    model, tokenizer = from_folder(AutoModelForCausalLM, args.base).eval(), from_folder(AutoTokenizer, args.base)
    found = lifts(model, tokenizer, CATEGORIES)
    index = {name: number for number, name in enumerate(CATEGORIES)}
    pairs = sorted({tuple(sorted(pair)) for scene in SCENES.values() for pair in scene.pairs})
    rows = [
        {"pair": pair, "lift": [float(found[index[one], index[other]]) for one, other in (pair, pair[::-1])]}
        for pair in pairs
    ]
    others = found.fill_diagonal_(-torch.inf)
    for row in rows:
        row["rank"] = 1 + int((others > max(row["lift"])).sum())
    table = markdown_table(
        ["A and B", "lift of B beside A", "of A beside B", "rank of the larger"],
        [[" and ".join(row["pair"]), *(f"{lift:+.1f}" for lift in row["lift"]), str(row["rank"])] for row in rows],
    )
    among = f"among the ordered pairs of {len(CATEGORIES)} categories"
    finish(table, {"pairs": rows, "categories": len(CATEGORIES)}, args.json, f"ranks {among}")


if __name__ == "__main__":
    main()
