"""AllPath: heads that resist wrong words, or look at the right place, count double; heads that push count nothing.

A file holds, by task (chair, pope, mcq), two rankings of a model's heads by their scores: `text` (from text to text)
and `image` (from the image to text), of each the `highest` and the `lowest`, best and worst first.
"""

from pathlib import Path

from llava_hh.attention.interventions import ScaleHeads
from llava_hh.files.files import read_json
from llava_hh.heads import Head, check_heads, model_of, parse_head, published_list
from llava_hh.models.lvlm import Lvlm
from llava_hh.runs.identity import why_foreign

HEADS_OF_7B = 32 * 32  # of the models that its numbers of heads were chosen on
LISTS = "allpath"  # the folder of published files, and the key of those that are found here


def scaled_heads(
    lvlm: Lvlm,
    source: str,
    allow_foreign: bool = False,
    task: str = "chair",
    n_low: int = 40,
    n_high: int = 40,
    n_image: int = 50,
    low: float = 0.0,
    high: float = 2.0,
) -> ScaleHeads:
    """The heads that AllPath scales, all rows of the prompt and the answer; one that is in several lists is `high`.

    Args:
        source: a file, or "published" for that of this model; allow_foreign: it may have been found on another one.
        task: whose rankings.
        n_low, n_high: of the ranking from text to text, this many lowest times `low` and highest times `high`.
        n_image: of the ranking from the image to text, this many highest times `high`. All three are of 1,024 heads; in
            a model of others as large a share is taken.
    Raises:
        ValueError: a file of another form, fewer heads than asked for, or none was published for the model.
        IndexError: a head that the model does not have.
    Source: Mo et al., "AllPath" (NeurIPS 2025), and its code: for CHAIR 40, 40, 50, for POPE 20, 20, 10.
    """
    if source == "published":
        path = published_list(lvlm.model.config, LISTS, "llava-hh attribute --allpath")
    else:
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"heads={source}: no such file; expected one of attribute --allpath, or published")
        if (why := why_foreign(model_of(path), lvlm.path)) and not allow_foreign:
            raise ValueError(f"heads={path}: {why}; attribute this model with --allpath, or pass --foreign-heads")
    wanted = {("text", "lowest"): (n_low, low), ("text", "highest"): (n_high, high)}
    wanted[("image", "highest")] = n_image, high
    factors: dict[Head, float] = {}
    for (ranking, end), (n, factor) in wanted.items():  # the later lists have the last word
        heads = _listed(path, task, ranking, end) if n else []
        if type(n) is not int or n < 0:
            raise ValueError(f"the number of {end} heads ({ranking}) is {n!r}; expected a whole number of at least 0")
        n = round(n * lvlm.n_layers * lvlm.n_heads / HEADS_OF_7B)
        if n > len(heads):
            raise ValueError(f"{path}: {task}, {ranking}, {end} has {len(heads)} heads, fewer than {n}")
        factors |= dict.fromkeys(heads[:n], factor)
    check_heads(factors, lvlm.n_layers, lvlm.n_heads)
    heads = tuple(sorted(factors))
    return ScaleHeads(heads, tuple(float(factors[head]) for head in heads))


def _listed(path: Path, task: str, ranking: str, end: str) -> list[Head]:
    content = read_json(path)
    content = content.get(LISTS, content)
    rankings = content.get(task) if isinstance(content, dict) else None
    if not isinstance(rankings, dict):
        raise ValueError(f"{path}: no rankings of AllPath for {task!r}; llava-hh attribute --allpath finds some")
    if not isinstance(listed := rankings.get(ranking), dict) or not isinstance(pairs := listed.get(end), list):
        advice = "; leave it out by n_image=0" if ranking == "image" else ""
        raise ValueError(f"{path}: {task} has no ranking {ranking!r} with its {end} heads{advice}")
    return [parse_head(pair, f"{path}: {task}, {ranking}, {end}[{i}]") for i, pair in enumerate(pairs)]
