"""Attribution of one caption: what each head does for the words that it names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.Image import Image

from llava_hh.attribution.contrast import influence
from llava_hh.attribution.targets import Target, find_targets
from llava_hh.files.images import rgb_image
from llava_hh.files.memory import fit_in_memory
from llava_hh.files.nonfinite import refuse_infinite
from llava_hh.heads import Head
from llava_hh.models.lvlm import DESCRIBE, Batch, Lvlm

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from llava_hh.attribution.ablation import Ablated

SHOWN = 3  # heads of each word in the text of a result


@dataclass(frozen=True)
class Attribution:
    """The influence of every head on words of a caption: p(word's first token) minus p without the head.

    Attributes:
        words: as they stand in the caption; objects: the COCO category of each, or the word where it names none.
        probabilities: (word,) of each word's first token; influence: (word, layer, head), and (word, layer) of whole
            attention modules and MLPs: fractions.
    """

    caption: str
    targets: tuple[Target, ...]
    probabilities: np.ndarray
    influence: np.ndarray
    attention_influence: np.ndarray
    mlp_influence: np.ndarray

    @property
    def words(self) -> list[str]:
        return [target.word for target in self.targets]

    @property
    def objects(self) -> list[str]:
        return [target.node for target in self.targets]

    def of(self, word: str | None = None) -> np.ndarray:
        """The influence on a word, or its mean over all words, (layer, head); a word that stands twice has its mean.

        Raises:
            ValueError: a word that was not measured.
        """
        chosen = [index for index, known in enumerate(self.words) if word is None or known.lower() == word.lower()]
        if not chosen:
            raise ValueError(f"no influence on {word!r} here; there is on {', '.join(self.words)}")
        return self.influence[chosen].mean(0)

    def top(self, k: int = 10, word: str | None = None) -> list[tuple[Head, float]]:
        """The k heads of largest influence on a word, or on the mean of all words, and their influence."""
        return largest(self.of(word), k)

    def rows(self) -> list[dict[str, Any]]:
        """One JSON-ready row for each word and head."""
        return [
            {"word": target.word, "object": target.node, "token": target.index, "layer": layer, "head": head}
            | {"probability": float(probability), "influence": float(values[layer, head])}
            for target, probability, values in zip(self.targets, self.probabilities, self.influence, strict=True)
            for layer, head in np.ndindex(values.shape)
        ]

    def to_dataframe(self) -> DataFrame:
        """`rows` as a pandas table.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError:
            raise ImportError("to_dataframe needs pandas (pip install pandas); rows() does without") from None
        return DataFrame(self.rows())

    def plot(self, word: str | None = None) -> Figure:
        """A map of the heads' influence on a word, or on the mean of all words; matplotlib's, to show or to save."""
        from llava_hh.figures.head_map import influence_map

        about = f"on {word!r}" if word else f"mean over {len(self.targets)} words"
        strongest = [head for head, _ in self.top(word=word)]
        return influence_map(self.of(word), strongest, f"Influence of attention heads, {about}")

    def __str__(self) -> str:
        lines = []
        for target, probability, values in zip(self.targets, self.probabilities, self.influence, strict=True):
            shown = ", ".join(f"{head} {value:+.3f}" for head, value in largest(values, SHOWN))
            lines.append(f"{target.word}: probability {probability:.3f}; influence of {shown}")
        return "\n".join(lines)


def largest(values: np.ndarray, k: int) -> list[tuple[Head, float]]:
    """The k heads of largest influence in (layer, head), largest first."""
    order = np.argsort(-values, axis=None, kind="stable")[:k]
    heads = [Head(*map(int, np.unravel_index(index, values.shape))) for index in order]
    return [(head, float(values[head])) for head in heads]


def attribute(
    lvlm: Lvlm,
    image: str | Path | Image,
    caption: str | Sequence[int],
    words: Sequence[str] | str | None = None,
    prompt: str = DESCRIBE,
    max_rows: int = 4096,
) -> Attribution:
    """The exact influence of every head on words of a caption: each head zeroed where the word is predicted.

    The numbers are those of the attribution script on the same caption. A text is tokenised anew. The token ids of a
    generated caption may be given instead of its text.

    Args:
        image: a path or a PIL image; prompt: the question that the caption answers.
        words: which; each mention of one counts. None: every object word of CHAIR.
        max_rows: the most ablated rows at once; bounds the memory.

    Raises:
        ValueError: an image that cannot be read, no object word in the caption, or a word that is not in it.
    Source: paper, counterfactual influence of attention heads.
    """
    tokenizer = lvlm.tokenizer
    is_text = isinstance(caption, str)
    ids = list(tokenizer(caption.strip(), add_special_tokens=False).input_ids if is_text else map(int, caption))
    text = caption.strip() if is_text else lvlm.answer_text(ids)
    words = listed_words(words)
    if missing := missing_words([text], words):
        raise ValueError(f"no word {missing[0]!r} in the caption {text[:60]!r}")
    if not (mentions := mentions_of(text, words)):
        raise ValueError(f"no object word of CHAIR in {text[:60]!r}; name words=[...]")
    targets = find_targets(tokenizer, ids, text, mentions)
    return influences_on(lvlm, lvlm.encode([rgb_image(image)], [prompt], [ids]), text, targets, max_rows)


def influences_on(lvlm: Lvlm, batch: Batch, caption: str, targets: Sequence[Target], max_rows: int) -> Attribution:
    """The exact influence of every head on the targets of a caption.

    Args:
        batch: one row, the image with its prompt and the caption.
    """
    from llava_hh.attribution.ablation import ablate_every_head

    positions = [batch.response_start[0] + target.index - 1 for target in targets]
    token_ids = [target.token_id for target in targets]

    def ablate(rows: int) -> Ablated:
        return ablate_every_head(lvlm.model, batch.inputs, positions, token_ids, max_rows=rows, modules=True)

    copies_of_a_layer = lvlm.n_heads + 2  # with its attention and its MLP
    ablated, _ = fit_in_memory(ablate, max_rows, min(max_rows, 1 + copies_of_a_layer))
    clean, *without = [tensor.numpy() for tensor in (ablated.clean, ablated.heads, ablated.mha, ablated.mlp)]
    if not all(np.isfinite(log_probs).all() for log_probs in (clean, *without)):
        refuse_infinite(lvlm.model, lvlm.decoder_layers, [(caption[:40], lambda: lvlm.model(**batch.inputs))])
    return Attribution(caption, tuple(targets), np.exp(clean), *(influence(clean, log_probs) for log_probs in without))


def mentions_of(text: str, words: Sequence[str] | None) -> list[dict[str, Any]]:
    """Where a caption says words, or with None the objects of CHAIR, in the caption's order; none hallucinated."""
    from llava_hh.metrics.chair.chair import find_objects

    if words is None:
        found = [(mention.start, mention.end, mention.word, mention.node) for mention in find_objects(text)]
    else:
        spans = sorted({span for word in words for span in _spans(text, word)})
        named = [(start, end, text[start:end]) for start, end in spans]
        found = [(*mention, category_of(mention[-1]) or mention[-1]) for mention in named]
    names = ("start", "end", "word", "node")
    return [{**dict(zip(names, mention, strict=True)), "hallucinated": False} for mention in found]


def category_of(word: str) -> str | None:
    """The COCO category that a word stands for, in the singular or plural; None where it stands for none."""
    from llava_hh.metrics.chair.variants import load_variant

    rules = load_variant("clean")
    return rules.categories.get(rules.singular(" ".join(word.lower().split())))


def listed_words(words: Iterable[str] | str | None) -> list[str] | None:
    """Words as a list; None is all object words.

    Raises:
        ValueError: there are none.
    """
    listed = [words] if isinstance(words, str) else None if words is None else list(words)
    if listed == []:
        raise ValueError("words is empty; leave it out for all object words")
    return listed


def missing_words(texts: Sequence[str], words: Sequence[str] | None) -> list[str]:
    """Those of the words that none of the texts says."""
    return [word for word in words or () if not any(_spans(text, word) for text in texts)]


def _spans(text: str, word: str) -> list[tuple[int, int]]:
    matches = re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) if word else ()
    return [match.span() for match in matches]
