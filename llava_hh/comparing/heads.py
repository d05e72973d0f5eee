"""Head lists against each other: heads in common, rank correlation of scores, and which heads they share."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from llava_hh.attribution.agreement import Ranking, compare_rankings, in_how_many, load_ranking
from llava_hh.comparing.inputs import made_of
from llava_hh.files.files import write_json
from llava_hh.files.progress import say
from llava_hh.files.tables import markdown_table
from llava_hh.heads import Head
from llava_hh.runs.run import make_parent, processes


def pair_lines(names: tuple[str, str], rankings: tuple[Ranking, Ranking], agreement: dict) -> list[str]:
    """What one pair of lists has in common, as a table and a line."""
    heads, rows = ["top k", "in common", "by chance", "p", "halves of the own images"], []
    for k, common in agreement["overlap"].items():
        chance = (f"{common['chance']:.1%}", f"{common['p']:.2g}") if "chance" in common else ("", "")
        within = [f"{ranking.within[k]:.0%}" for ranking in rankings if k in ranking.within]
        rows.append([str(k), f"{common['n']} ({common['share']:.0%})", *chance, ", ".join(within)])
    lines = [" and ".join(names), "", markdown_table(heads, rows), ""]
    if correlation := agreement["rank_correlation"]:
        low, high = correlation["interval"]["spearman"]
        of = f"over {correlation['n_heads']} heads (95% {low:.2f} to {high:.2f}, bootstrap over heads)"
        lines += [f"Spearman's rank correlation {correlation['spearman']:.2f} {of}", ""]
    return lines


def compare_heads(lists: Sequence[Path], top_k: int, out: Path | None) -> None:
    """Compare two or more head lists, print what they share, and write it to the file `out`.

    Args:
        top_k: how many heads of each list are named.
    Raises:
        ValueError: fewer than two lists, one of them twice, or a file that is no head list.
    """
    if len(lists) < 2 or len(set(lists)) < len(lists):
        raise ValueError("expected two or more head lists, each once")
    if not processes().is_main:
        return
    rankings = {str(path): load_ranking(path) for path in lists}
    pairs, printed = [], []
    for names in combinations(rankings, 2):
        both = tuple(rankings[name] for name in names)
        agreement = compare_rankings(*both)
        pairs.append({"lists": list(names), **agreement})
        printed += pair_lines(names, both, agreement)
    shared = in_how_many([ranking.heads for ranking in rankings.values()], top_k)
    if out:
        make_parent(out)
        named = [{"head": head, "lists": [str(lists[index]) for index in of]} for head, of in shared.items()]
        within = {name: ranking.within for name, ranking in rankings.items()}
        content = {"pairs": pairs, "within": within, "top_k": top_k, "heads": named}
        write_json(out, {**content, "run": made_of(rankings)})
    say("\n".join([*printed, *shared_lines(shared, list(rankings), top_k), *([str(out)] if out else [])]))


def shared_lines(shared: dict[Head, list[int]], names: list[str], top_k: int) -> list[str]:
    """The heads by which lists have them among their first `top_k`."""
    groups: dict[str, list[str]] = {}
    for head, indices in shared.items():
        lists = "all lists" if len(indices) == len(names) else ", ".join(names[index] for index in indices)
        groups.setdefault(lists, []).append(str(head))
    return [f"top {top_k} of {lists}: {', '.join(heads)}" for lists, heads in groups.items()]
