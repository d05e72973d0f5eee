"""Which generated tokens attribution looks at: the first token of every object word that a caption names."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from transformers import PreTrainedTokenizerBase

from llava_hh.metrics.chair import find_objects


@dataclass(frozen=True)
class Target:
    """`index` counts in the caption's token_ids; `token_id` is the first token of `word`, a mention of `node`."""

    index: int
    token_id: int
    word: str
    node: str
    hallucinated: bool

    def row(self) -> dict:
        return asdict(self)


def find_targets(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], objects: set[str]) -> list[Target]:
    """The first token of every mentioned object, in order.

    A mention's token is the one that holds the mention's first character in the decoded `token_ids`; ends of tokens are
    lengths of decoded prefixes.

    Args:
        objects: ground truth, COCO categories; a mention of anything else is hallucinated.
    Source: the paper's object tokens (first sub-token of a mentioned object).
    Differs: the released code takes every token whose text equals the first sub-token of a listed word, wherever it
        stands, and a token in both lists as hallucinated; ours goes by the place of the mention.
    """
    text = tokenizer.decode(token_ids, skip_special_tokens=True)
    ends = [len(tokenizer.decode(token_ids[: n + 1], skip_special_tokens=True)) for n in range(len(token_ids))]
    targets = []
    for mention in find_objects(text):
        index = next(place for place, end in enumerate(ends) if end > mention.start)
        hallucinated = mention.node not in objects
        targets.append(Target(index, token_ids[index], mention.word, mention.node, hallucinated))
    return targets
