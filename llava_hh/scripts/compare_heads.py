"""Compare head lists: heads in common, rank correlation of scores, and which heads they share.

Each list is the attribution_result.json of a run, or a file of checkpoints/heads. Beside what two lists have in common
stands what the lists of two halves of their own images have in common: where that is as little, the data sets need not
differ, their captions are few.
"""

import argparse
from itertools import combinations
from pathlib import Path

from llava_hh.attribution.agreement import Ranking, compare_rankings, in_how_many, load_ranking
from llava_hh.command_line import SIZE, errors_in_one_line, script_parser
from llava_hh.files import sha256, write_json
from llava_hh.heads import Head
from llava_hh.runs import make_parent, processes, provenance
from llava_hh.tables import markdown_table


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("lists", type=Path, nargs="+", metavar="LIST", help="head lists, two or more")
    add("--top-k", type=SIZE, default=20, help="how many heads of each list are named")
    add("--out", type=Path, help="write all of it to this JSON file")
    return parser


def pair_lines(names: tuple[str, str], rankings: tuple[Ranking, Ranking], found: dict) -> list[str]:
    """What one pair of lists has in common, as a table and a line."""
    heads, rows = ["top k", "in common", "by chance", "p", "halves of the own images"], []
    for k, own in found["overlap"].items():
        chance = (f"{own['chance']:.1%}", f"{own['p']:.2g}") if "chance" in own else ("", "")
        within = [f"{ranking.within[k]:.0%}" for ranking in rankings if k in ranking.within]
        rows.append([str(k), f"{own['n']} ({own['share']:.0%})", *chance, ", ".join(within)])
    lines = [f"{names[0]} and {names[1]}", "", markdown_table(heads, rows)]
    if correlation := found["rank_correlation"]:
        low, high = correlation["interval"]["spearman"]
        of = f"over {correlation['n_heads']} heads (95% {low:.2f} to {high:.2f}, bootstrap over heads)"
        lines += ["", f"Spearman's rank correlation {correlation['spearman']:.2f} {of}"]
    return lines


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        if len(args.lists) < 2 or len(set(args.lists)) < len(args.lists):
            raise ValueError("expected two or more head lists, each once")
        if not processes().is_main:
            return
        rankings = {str(path): load_ranking(path) for path in args.lists}
        pairs, printed = [], []
        for one, other in combinations(rankings, 2):
            found = compare_rankings(rankings[one], rankings[other])
            pairs.append({"lists": [one, other], **found})
            printed += [*pair_lines((one, other), (rankings[one], rankings[other]), found), ""]
        shared = in_how_many([ranking.heads for ranking in rankings.values()], args.top_k)
        if args.out:
            make_parent(args.out)
            named = [{"head": head, "lists": [str(args.lists[place]) for place in own]} for head, own in shared.items()]
            within = {name: ranking.within for name, ranking in rankings.items()}
            hashes = {name: sha256(Path(name)) for name in rankings}
            content = {"pairs": pairs, "within": within, "top_k": args.top_k, "heads": named}
            write_json(args.out, {**content, "run": {**provenance(), "sha256": hashes}})
    print("\n".join([*printed, *shared_lines(shared, list(rankings), args.top_k)]))
    if args.out:
        print(args.out)


def shared_lines(shared: dict[Head, list[int]], names: list[str], top_k: int) -> list[str]:
    """The heads by which lists have them among their first `top_k`."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for head, own in shared.items():
        groups.setdefault(tuple(own), []).append(str(head))
    return [
        f"top {top_k} of {'all lists' if len(places) == len(names) else ', '.join(names[p] for p in places)}: "
        f"{', '.join(heads)}"
        for places, heads in groups.items()
    ]


if __name__ == "__main__":
    main()
