"""AMBER: what descriptions hallucinate and cover, and how questions about the image are answered; fractions."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from textblob.en import tag

from llava_hh.data.amber import Amber, Annotation
from llava_hh.metrics.chair.singular import singularize

ATTRIBUTES = ("state", "number", "action")
KINDS = ("existence", *ATTRIBUTES, "relation")
DIMENSIONS = {"all": KINDS, "existence": KINDS[:1], "attribute": ATTRIBUTES, **{kind: (kind,) for kind in KINDS[1:]}}


class Description(NamedTuple):
    """What one description names: objects in order, repeats among them, and those that are hallucinated.

    covered, targets: indices of the annotated objects, and of the typical hallucinations, that it names.
    """

    objects: list[str]
    hallucinated: list[str]
    covered: set[int]
    targets: set[int]


def find_nouns(text: str, vocabulary: frozenset[str]) -> list[str]:
    """The nouns of a text that are in the vocabulary, in order, lower case; a plural as its singular."""
    nouns = (word.lower() for word, part in tag(text) if part.startswith("NN"))
    return [form for word in nouns if (form := word if word in vocabulary else singularize(word)) in vocabulary]


def _first_named(objects: Sequence[str], associated: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    """From a word to the index of the object that it stands for.

    It is the first object that has the word among its associated words, else the first of that name.
    """
    words = [(word, index) for index, name in enumerate(objects) for word in associated[name]]
    words += [(name, index) for index, name in enumerate(objects)]
    return dict(reversed(words))


def score_description(text: str, annotation: Annotation, amber: Amber) -> Description:
    """Which objects a description names rightly, and which it hallucinates.

    An object is a noun that relation.json has anywhere. It is right if it is one of the safe words, an annotated
    object, or a word that relation.json gives for one; else it is hallucinated.

    Source: AMBER (Wang et al. 2023) and its inference.py: repeats count; a word stands for one object, the first
        that has it among its associated words, else the object itself.
    Differs: AMBER also takes a noun for right (or for a target) whose spaCy vector (en_core_web_lg) is close to such a
        word; the vectors are on no package index, so only the published lists decide. Hence CHAIR and Hal are at least
        AMBER's, Cover and Cog at most; compare them among runs that were scored here. Parts of speech are TextBlob's,
        singulars by rules, not nltk's and WordNet's; words count in either case, not in lower case alone.
    """
    vocabulary = frozenset(amber.associated) | {word for words in amber.associated.values() for word in words}
    truth, targets = (_first_named(listed, amber.associated) for listed in (annotation.truth, annotation.targets))
    objects = find_nouns(text, vocabulary)
    unsafe = [word for word in objects if word not in amber.safe_words]
    wrong = [word for word in unsafe if word not in truth]
    covered = {truth[word] for word in unsafe if word in truth}
    return Description(objects, wrong, covered, {targets[word] for word in wrong if word in targets})


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def generative_metrics(descriptions: Sequence[tuple[Description, Annotation]]) -> dict:
    """chair, cover, hal and cog over descriptions with their annotations; None where there is nothing to divide by.

    chair: hallucinated objects among the named ones. cover: annotated objects that are named. hal: descriptions with a
    hallucinated object. cog: typical hallucinations that are named.

    Source: AMBER's inference.py: sums over all descriptions.
    Differs: no 0.001 in the denominators. Cog is the code's (of the annotated targets); the paper writes it as a share
        of the named objects.
    """
    n, named = len(descriptions), sum(len(said.objects) for said, _ in descriptions)
    return {
        "n": n,
        "chair": _share(sum(len(said.hallucinated) for said, _ in descriptions), named),
        "cover": _share(sum(len(d.covered) for d, _ in descriptions), sum(len(a.truth) for _, a in descriptions)),
        "hal": _share(sum(bool(said.hallucinated) for said, _ in descriptions), n),
        "cog": _share(sum(len(d.targets) for d, _ in descriptions), sum(len(a.targets) for _, a in descriptions)),
        "objects": named,
    }


def parse_answer(text: str) -> str:
    """The first word, in either case and without marks around it, if it is "yes" or "no"; else "other".

    Differs: AMBER's code takes "Yes" and "No" alone; for these the result is the same.
    """
    first = (text.split() or [""])[0].strip(".,;:!?\"'*").lower()
    return first if first in ("yes", "no") else "other"


def answer_metrics(pairs: Sequence[tuple[str, str]]) -> dict:
    """Accuracy, precision, recall and F1 of (truth, answer), where "no" is the positive class.

    An answer "other" is wrong and is not a "no". None where there is nothing to divide by; F1 is 0 where both precision
    and recall are 0.

    Source: AMBER's inference.py. Differs: no small constants in the denominators, nothing rounded on the way to F1.
    """
    hits = sum(truth == answer == "no" for truth, answer in pairs)
    said_no, are_no = (sum(pair[side] == "no" for pair in pairs) for side in (1, 0))
    return {
        "n": len(pairs),
        "accuracy": _share(sum(truth == answer for truth, answer in pairs), len(pairs)),
        "precision": _share(hits, said_no),
        "recall": _share(hits, are_no),
        "f1": _share(2 * hits, said_no + are_no),
        "other": sum(answer == "other" for _, answer in pairs),
    }


def amber_score(chair: float, f1: float) -> float:
    """(1 - CHAIR + F1) / 2, F1 over all questions. Source: AMBER, which has it in percent."""
    return (1 - chair + f1) / 2


def score_amber(answers: Mapping[int, str], amber: Amber) -> dict:
    """All of AMBER's numbers over the given answers, by query id.

    Returns: `generative`, `discriminative` (by dimension), `amber_score` (None unless both parts are there), and
        `sentences` (what each description names).

    Raises:
        ValueError: an id that AMBER does not have.
    """
    if unknown := sorted(set(answers) - set(amber.annotations)):
        raise ValueError(f"AMBER has no query {unknown[0]}")
    sentences, described, pairs = [], [], {kind: [] for kind in DIMENSIONS["all"]}
    for number, text in answers.items():
        annotation = amber.annotations[number]
        if annotation.answer is not None:
            pairs[annotation.kind].append((annotation.answer, parse_answer(text)))
            continue
        said = score_description(text, annotation, amber)
        described.append((said, annotation))
        sentences.append({"question_id": number, "objects": said.objects, "hallucinated": said.hallucinated})
    generative = generative_metrics(described)
    by_dimension = {name: [*chain(*(pairs[kind] for kind in kinds))] for name, kinds in DIMENSIONS.items()}
    discriminative = {name: answer_metrics(answered) for name, answered in by_dimension.items()}
    parts = generative["chair"], discriminative["all"]["f1"]
    result = {"generative": generative, "discriminative": discriminative}
    return {**result, "amber_score": None if None in parts else amber_score(*parts), "sentences": sentences}
