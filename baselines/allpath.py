"""AllPath: heads that resist wrong words, and heads that look at the right place, count double; heads that push count 0.

A file holds, by task (chair, pope, mcq), two rankings of a model's heads by their scores: `text` (from text to text)
and `image` (from the image to text), of each the `highest` and the `lowest`, best and worst first.
"""

from pathlib import Path

from llava_hh.attention.interventions import ScaleHeads
from llava_hh.files.files import read_json
from llava_hh.heads import Head, check_heads, parse_head, published_list
from llava_hh.models.lvlm import Lvlm

HEADS_OF_7B = 32 * 32  # of the models that its numbers of heads were chosen on
LISTS = "allpath"  # the folder of published files, and the key of those that are found here


def scaled_heads(
    lvlm: Lvlm,
    source: str,
    task: str = "chair",
    n_low: int = 40,
    n_high: int = 40,
    n_image: int = 50,
    low: float = 0.0,
    high: float = 2.0,
) -> ScaleHeads:
    """The heads that AllPath scales, all rows of the prompt and the answer; one that is in several lists is `high`.

    Args:
        source: a file, or "published" for that of this model.
        task: whose rankings.
        n_low, n_high: of the ranking from text to text, this many lowest times `low` and highest times `high`.
        n_image: of the ranking from the image to text, this many highest times `high`. All three are of 1,024 heads; in
            a model of others as large a share is taken.
    Raises:
        ValueError: a file of another form, fewer heads than asked for, or none was published for the model.
        IndexError: a head that the model does not have.
    Source: Mo et al., "AllPath" (NeurIPS 2025), and its code: for CHAIR 40, 40, 50, for POPE 20, 20, 10.
    """
    path = published_list(lvlm.model.config, LISTS) if source == "published" else Path(source)
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
    listed = content.get(task, {})
    if not isinstance(listed, dict) or ranking not in listed:
        tasks = ", ".join(name for name, value in content.items() if isinstance(value, dict) and "text" in value)
        raise ValueError(f"{path}: no rankings of AllPath for {task!r}; there are {tasks or 'none'}")
    return [parse_head(pair, f"{path}: {task}, {ranking}, {end}[{i}]") for i, pair in enumerate(listed[ranking][end])]
