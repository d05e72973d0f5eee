"""Head lists against each other: heads in common, rank correlation of scores, and which heads they share."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from llava_hh.attribution.agreement import Ranking, compare_rankings, in_how_many, load_ranking
from llava_hh.files.files import sha256, write_json
from llava_hh.files.tables import markdown_table
from llava_hh.heads import Head
from llava_hh.runs.run import make_parent, processes, provenance


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


def compare_heads(lists: Sequence[Path], top_k: int, out: Path | None) -> None:
    """Compare two or more head lists, print what they share, and write it to the file `out`.

    Args:
        top_k: how many heads of each list are named.
    Raises:
        ValueError: fewer than two lists, one of them twice, or a file that is none.
    """
    if len(lists) < 2 or len(set(lists)) < len(lists):
        raise ValueError("expected two or more head lists, each once")
    if not processes().is_main:
        return
    rankings = {str(path): load_ranking(path) for path in lists}
    pairs, printed = [], []
    for one, other in combinations(rankings, 2):
        found = compare_rankings(rankings[one], rankings[other])
        pairs.append({"lists": [one, other], **found})
        printed += [*pair_lines((one, other), (rankings[one], rankings[other]), found), ""]
    shared = in_how_many([ranking.heads for ranking in rankings.values()], top_k)
    if out:
        make_parent(out)
        named = [{"head": head, "lists": [str(lists[place]) for place in own]} for head, own in shared.items()]
        within = {name: ranking.within for name, ranking in rankings.items()}
        hashes = {name: sha256(Path(name)) for name in rankings}
        content = {"pairs": pairs, "within": within, "top_k": top_k, "heads": named}
        write_json(out, {**content, "run": {**provenance(), "sha256": hashes}})
    print("\n".join([*printed, *shared_lines(shared, list(rankings), top_k), *([str(out)] if out else [])]))


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
