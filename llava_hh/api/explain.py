"""One image explained: captioned greedily and under AD-HH, with the heads behind each word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from llava_hh.api.attribution import category_of, influences_on, largest, listed_words, mentions_of, missing_words
from llava_hh.api.explanation import ExplainedCaption, ExplainedWord, Explanation, Look
from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import DeactivateText
from llava_hh.attention.modules import heads_on_image_alone
from llava_hh.attention.spans import after_last_image
from llava_hh.attribution.targets import find_targets
from llava_hh.decoding.generation import answer_samples
from llava_hh.decoding.head_lists import PUBLISHED, THRESHOLD, adhh_of_list
from llava_hh.decoding.method import Answer, Answers, Greedy, generate_greedily
from llava_hh.experiments.measures.attention_bias import PARTS
from llava_hh.experiments.measures.word_maps import looks_at, token_texts
from llava_hh.files.images import rgb_image
from llava_hh.heads import Head, load_heads
from llava_hh.models.lvlm import DESCRIBE, Batch, Lvlm

SHOWN = 5  # heads of largest influence on a word, whose attention is kept


def explain(
    lvlm: Lvlm,
    image: str | Path | Image,
    heads: Sequence[tuple[int, int]] | str | Path | None = None,
    threshold: float | None = None,
    words: Sequence[str] | str | None = None,
    truth: Sequence[str] | None = None,
    prompt: str = DESCRIBE,
    max_new_tokens: int = 128,
    max_rows: int = 4096,
) -> Explanation:
    """Caption an image greedily and under AD-HH: which heads brought each word, where they look, when they fired.

    Influence is exact, as in `attribute`, of all heads on all words. Influence and attention under AD-HH are those of
    the model without it on the caption that it gave.

    Args:
        heads, threshold: those that AD-HH switches off, such as `load_heads(path, top_k=2)` or "L24H4,L23H3", and at
            which attention mass after the image, 0.4 by default. None or "published": as in the list that was
            published for the model, which says how many and at which threshold, or else all of its heads.
        words: which; None: every object word of CHAIR.
        truth: the objects in the image: COCO's categories, their synonyms, or some of `words`; None: no word is judged.
        max_rows: the most ablated rows at once; bounds the memory.

    Raises:
        ValueError: an image that cannot be read, no heads, none published, a word that neither caption says, or truth
            that is neither a category nor a word.
        IndexError: a head that the model does not have.
    """
    picture, name = rgb_image(image), _name_of(image)
    words = listed_words(words)
    if isinstance(truth, str):
        raise ValueError(f"truth is the text {truth!r:.80}; expected a list of names")
    truth = None if truth is None else list(truth)
    objects = None if truth is None else named_objects(truth, words or ())
    if heads is None or heads == str(PUBLISHED):
        heads, threshold = adhh_of_list(PUBLISHED, lvlm, threshold=threshold)
    elif isinstance(heads, str | Path):
        heads = load_heads(heads)
    edit = DeactivateText(tuple(heads), THRESHOLD if threshold is None else float(threshold))
    adhh = _Noting(edit)
    answers: dict[str, Answer] = {}
    for label, method in (("greedy", Greedy()), ("AD-HH", adhh)):
        given = ([{"image_id": name}], [picture], method, prompt, max_new_tokens)
        [answers[label]] = answer_samples(lvlm, *given).answers
    texts = {label: lvlm.answer_text(answer.token_ids) for label, answer in answers.items()}
    if missing := missing_words([*texts.values()], words):
        raise ValueError(f"no word {missing[0]!r} in the captions {' and '.join(map(repr, texts.values()))}")
    captions = []
    for label, answer in answers.items():
        batch = lvlm.encode([picture], [prompt], [answer.token_ids])
        mentions = _judged(_apart(mentions_of(texts[label], words)), objects)
        found = _words(lvlm, batch, answer.token_ids, texts[label], mentions, edit.heads, max_rows)
        tokens = token_texts(lvlm.tokenizer, answer.token_ids)
        fired = adhh.fired if label == "AD-HH" else {}
        captions.append(ExplainedCaption(label, texts[label], tokens, answer.finish_reason, found, fired))
    return Explanation(name, picture, edit.heads, edit.threshold, truth, *_prompt(lvlm, batch), *captions)


@dataclass
class _Noting:
    """AD-HH of one row; notes the tokens at which each head fired."""

    edit: DeactivateText
    fired: dict[Head, list[int]] = field(default_factory=dict)

    def answer(self, lvlm: Lvlm, batch: Batch, max_new_tokens: int) -> Answers:
        with intervene(lvlm.model, batch.image_mask, [self.edit]) as trace:
            [answer] = generate_greedily(lvlm, batch, max_new_tokens)
        at = trace.fired_at([len(answer.token_ids) + (answer.finish_reason == "stop")])
        self.fired = {head: of_row for head, [of_row] in at.items()}
        return Answers([answer], {})


def _words(
    lvlm: Lvlm,
    batch: Batch,
    token_ids: Sequence[int],
    text: str,
    mentions: Sequence[Mapping[str, Any]],
    listed: Sequence[Head],
    max_rows: int,
) -> list[ExplainedWord]:
    """The words of a caption with the heads behind them.

    Args:
        listed: heads whose attention is kept at every word, beside the strongest of that word.
    """
    if not mentions:
        return []
    targets = find_targets(lvlm.tokenizer, token_ids, text, mentions)
    found = influences_on(lvlm, batch, text, targets, max_rows)
    without_text = {*heads_on_image_alone(lvlm.model)}
    strongest = [[head for head, _ in largest(values, SHOWN)] for values in found.influence]
    shown = [[head for head in dict.fromkeys([*heads, *listed]) if head not in without_text] for heads in strongest]
    heads = [*dict.fromkeys(head for of_word in shown for head in of_word)]
    looks = looks_at(lvlm, [batch.response_start[0] + target.index - 1 for target in targets], batch, heads)
    words = []
    for number, mention in enumerate(mentions):
        on_image, on_text = np.split(looks.seen[number], [looks.n_image], axis=1)
        masses = [dict(zip(PARTS, of_head, strict=True)) for of_head in looks.parts[number].tolist()]
        of_heads = zip(heads, masses, on_image, on_text, looks.most_read(number), strict=True)
        seen = {head: Look(*of_head) for head, *of_head in of_heads}
        measured = {
            "token": targets[number].index,
            "probability": float(found.probabilities[number]),
            "influence": found.influence[number],
            "looks": {head: seen[head] for head in shown[number]},
        }
        words.append(ExplainedWord(**mention, **measured))
    return words


def _prompt(lvlm: Lvlm, batch: Batch) -> tuple:
    """The prompt's tokens after the image, the number of image tokens, and how these lie over the picture."""
    mask, start = batch.image_mask[0].cpu(), batch.response_start[0]
    ids = batch.inputs["input_ids"][0].cpu()[:start][after_last_image(mask[None], start)[0]]
    return token_texts(lvlm.tokenizer, ids.tolist()), int(mask.sum()), lvlm.image_grid(batch)


def _name_of(image: str | Path | Image) -> str:
    path = image if isinstance(image, str | Path) else getattr(image, "filename", "")
    return Path(path).name or "image"


def _apart(mentions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mentions without those that begin inside another, as the second word of "tennis racket" does."""
    kept: list[dict[str, Any]] = []
    for mention in sorted(mentions, key=lambda mention: (mention["start"], -mention["end"])):
        if not kept or mention["start"] >= kept[-1]["end"]:
            kept.append(mention)
    return kept


def named_objects(truth: Sequence[str], words: Sequence[str]) -> set[str]:
    """What is in the image: categories, and words that are of none, in lower case.

    Raises:
        ValueError: a name that is neither.
    """
    known = {word.lower() for word in words}
    for name in truth:
        if category_of(name) is None and name.lower() not in known:
            what = f"truth {name!r} is no COCO category and no synonym of one: CHAIR does not count it"
            raise ValueError(f"{what}; leave it out, or where a caption says it, name it among the words to explain")
    return {category_of(name) or name.lower() for name in truth}


def _judged(mentions: Sequence[dict[str, Any]], objects: set[str] | None) -> list[dict[str, Any]]:
    """The mentions with whether the image lacks their object; None where that is not known."""
    judged = [None if objects is None else mention["node"].lower() not in objects for mention in mentions]
    return [{**mention, "hallucinated": wrong} for mention, wrong in zip(mentions, judged, strict=True)]
