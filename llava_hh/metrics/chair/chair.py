"""CHAIR: the COCO objects that a caption names, and which of them the image doesn't show (paper, tables of CHAIR).

CHAIR_s is the share of captions with a hallucinated object, CHAIR_i the share of hallucinated mentions.
Numbers of different variants (`llava_hh.metrics.chair.variants`) differ by more than a point; `hh` is the paper's.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from llava_hh.data.coco import ImageAnnotations
from llava_hh.metrics.chair.variants import Variant, load_synonyms, load_variant
from llava_hh.metrics.chair.words import Token, tokenize
from llava_hh.metrics.of_captions import METRICS, metrics_of, sentence_counts

OF_A_CAPTION = ("CHAIRi", "precision", "recall", "f1")


@dataclass(frozen=True, slots=True)
class Mention:
    """One naming of an object in a caption.

    Attributes:
        word: as the variant has it when it looks it up: in `hh` and `clean` the surface form in lower case ("dogs"), in
            the others its singular; of two words the item they became ("hot dog", "baby bear" -> "bear").
        node: its COCO category ("dog").
        index: index in the caption's list of items after double words were joined.
        start, end: characters [start, end) of the caption that name it, both words of a double word. For a single word
            of `hh` and `clean`, caption[start:end].lower() == word.
    """

    word: str
    node: str
    index: int
    start: int
    end: int


def join_double_words(tokens: Sequence[Token], variant: Variant) -> list[Token]:
    """Return `tokens` with each pair of the variant's double words joined to one item, greedily from left to right."""
    items, joined = [], None
    for token, second in zip_longest(tokens, tokens[1:]):
        if joined:  # the token is the second of a pair that is already an item
            joined = None
            continue
        if second and token.word in variant.first_words:
            joined = variant.double_words.get(variant.singular(f"{token.word} {second.word}"))
        items.append(Token(joined, token.start, second.end) if joined else token)
    return items


def read_caption(caption: str, variant: Variant) -> tuple[list[Token], list[Mention]]:
    """Return the items of a caption after double words were joined, and the objects among them."""
    items = join_double_words(variant.normalise(tokenize(caption)), variant)
    words = {item.word for item in items}
    # "the seat of the toilet" is no chair; so in a caption with both words no "seat" is.
    ignored = "seat" if {"toilet", "seat"} <= words else None
    mentions = []
    for index, item in enumerate(items):
        node = variant.categories.get(variant.singular(item.word))
        if node is not None and item.word != ignored:
            mentions.append(Mention(item.word, node, index, item.start, item.end))
    return items, mentions


def find_objects(caption: str, variant: str = "hh") -> list[Mention]:
    """Return the COCO objects that `caption` names, in order, one entry a mention.

    Raises:
        ValueError: an unknown variant, or one whose data is not installed.
    """
    return read_caption(caption, load_variant(variant))[1]


def score_caption(caption: str, objects: set[str], variant: str = "hh") -> dict[str, Any]:
    """Score one caption against the categories in its image; the keys are those of the paper's result files.

    Args:
        objects: ground truth, COCO categories.
    Returns: `words` are the items of the caption after double words were joined, and the two lists of indices point
        into it; `mentions` repeats the mentions with their characters [start, end) in the caption.
        `metrics`: CHAIRs (0 or 1), CHAIRi, precision (share of the categories it names that are in `objects`), recall
        (share of `objects` that it names), f1; fractions. `mscoco_generated_words` are words in `hh` and `clean`,
        categories in the others, as in the code that each is from.
    Raises:
        ValueError: an unknown variant, or one whose data is not installed.
    Differs: the paper's indices count tokens before double words were joined, and shift after its toilet-seat rule;
        here words[index] is always the mention.
    """
    return score_by_rules(caption, objects, load_variant(variant))


def score_by_rules(caption: str, objects: set[str], rules: Variant) -> dict[str, Any]:
    """`score_caption` for the rules of any vocabulary, `objects` being categories of that vocabulary."""
    items, mentions = read_caption(caption, rules)
    wrong = [mention for mention in mentions if mention.node not in objects]
    right = [mention for mention in mentions if mention.node in objects]
    entry = {
        "caption": caption,
        "mscoco_hallucinated_words": [[mention.word, mention.node] for mention in wrong],
        "mscoco_non_hallucinated_words": [[mention.word, mention.node] for mention in right],
        "mscoco_gt_words": sorted(objects),
        "mscoco_generated_words": [mention.node if rules.records_nodes else mention.word for mention in mentions],
        "hallucination_idxs": [mention.index for mention in wrong],
        "non_hallucination_idxs": [mention.index for mention in right],
        "words": [item.word for item in items],
        "mentions": [
            {"word": m.word, "node": m.node, "start": m.start, "end": m.end, "hallucinated": m.node not in objects}
            for m in mentions
        ],
    }
    parts = {name: METRICS[name].parts(entry) for name in OF_A_CAPTION}
    values = {name: above / below if below else 0.0 for name, (above, below) in parts.items()}
    return entry | {"metrics": {"CHAIRs": int(bool(wrong)), **values}}


def corpus_metrics(sentences: Sequence[Mapping[str, Any]], variant: str = "hh") -> dict[str, Any]:
    """METRICS of entries that `score_caption` made (or a result file holds) with this variant; counts; the variant."""
    values = metrics_of(sentence_counts(sentences).sum(0)).tolist()
    n_wrong = sum(len(entry["mscoco_hallucinated_words"]) for entry in sentences)
    n_mentions = n_wrong + sum(len(entry["mscoco_non_hallucinated_words"]) for entry in sentences)
    counts = {"n": len(sentences), "n_mentions": n_mentions, "n_hallucinated_mentions": n_wrong}
    return {**dict(zip(METRICS, values, strict=True)), **counts, "variant": variant}


def objects_of(annotations: Mapping[int, ImageAnnotations], variant: str = "hh") -> dict[int, set[str]]:
    """Return the COCO categories in each image: those of its instances and those its reference captions name.

    Args:
        annotations: by image id, from `llava_hh.data.coco.load_annotations`.
    Raises:
        ValueError: an instance of a category that isn't one of the 80; an unknown variant.
    """
    rules = load_variant(variant)
    return objects_by_rules(annotations, rules, load_synonyms(), "expected one of the 80 COCO categories")


def objects_by_rules(
    annotations: Mapping[int, ImageAnnotations], rules: Variant, categories: Container[str], expected: str
) -> dict[int, set[str]]:
    """`objects_of` for the rules of any vocabulary.

    Args:
        categories: those that instances may be of; expected: them in words, for the message.
    """
    objects = {}
    for image_id, image in annotations.items():
        if unknown := [category for category in sorted(image.categories) if category not in categories]:
            raise ValueError(f"image {image_id} has an instance of {unknown[0]!r}; {expected}")
        named = {mention.node for caption in image.captions for mention in read_caption(caption, rules)[1]}
        objects[image_id] = image.categories | named if named else image.categories
    return objects
