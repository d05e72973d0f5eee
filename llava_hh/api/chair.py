"""CHAIR of captions in Python objects."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any


def chair(
    captions: Mapping[Hashable, str] | Sequence[str],
    truth: Mapping[Hashable, Iterable[str]] | Sequence[Iterable[str]],
    synonyms: Mapping[str, str] | None = None,
    variant: str = "hh",
) -> dict[str, Any]:
    """CHAIR of captions: which COCO objects they name, and which of these are not in the image.

    Args:
        captions: texts, by image or in a list.
        truth: the objects in each image, by the same keys or in the same order: COCO categories or their synonyms.
        synonyms: further words, of one or two words each, and the COCO category that each stands for, in captions and
            in truth. It wins over the paper's list.
        variant: the rules, which `llava_hh.metrics.chair.variants` explains; hh is the paper's.

    Returns: what `overall_metrics` of a result file holds (fractions: CHAIRs, CHAIRi, precision, recall, f1, and the
        95% `interval` of each over images), and `sentences`, what it holds of each caption.
    Raises:
        ValueError: no captions, a caption without truth, an object that is neither a COCO category nor a synonym of
            one, or a synonym of an unknown category.
    """
    from llava_hh.metrics.caption_scores import overall_metrics
    from llava_hh.metrics.chair.chair import score_by_rules
    from llava_hh.metrics.chair.variants import category_of_word, load_synonyms, load_variant

    added = {" ".join(word.lower().split()): category for word, category in (synonyms or {}).items()}
    for word, category in added.items():
        if not isinstance(category, str) or category not in load_synonyms():
            raise ValueError(f"synonym {word!r} of {category!r}: expected one of the 80 COCO categories")
        if not 1 <= len(word.split()) <= 2:
            raise ValueError(f"synonym {word!r}: expected one word or two")
    rules = load_variant(variant)
    if added:
        pairs = {word: word for word in added if " " in word}
        rules = replace(rules, categories={**rules.categories, **added}, double_words={**rules.double_words, **pairs})
    known = {**category_of_word(), **added}
    for name, value in (("captions", captions), ("truth", truth)):
        if isinstance(value, str):
            raise ValueError(f"{name} is the text {value!r:.80}; expected a list, an entry an image")
    by_image, objects_in = (
        given if isinstance(given, Mapping) else dict(enumerate(given)) for given in (captions, truth)
    )
    if not by_image:
        raise ValueError("no captions to score; expected a list of texts, or texts by image")
    if not isinstance(captions, Mapping) and len(by_image) != len(objects_in):
        raise ValueError(f"{len(by_image)} captions but {len(objects_in)} images in truth")
    sentences = []
    for image, text in by_image.items():
        if image not in objects_in:
            raise ValueError(f"image {image!r} has a caption, but no entry in truth")
        if not isinstance(text, str):
            raise ValueError(f"the caption of image {image!r} is {text!r}; expected a text")
        if isinstance(names := objects_in[image], str) or not isinstance(names, Iterable):
            raise ValueError(f"truth of image {image!r} is {names!r}; expected a list of names")
        categories = {name: known.get(name.strip().lower()) for name in names}
        for name, category in categories.items():
            if category is None:
                raise ValueError(f"image {image!r}: object {name!r:.80} is no COCO category, and no synonym of one")
        sentences.append({"image_id": image, **score_by_rules(text, set(categories.values()), rules)})
    return {**overall_metrics(sentences, variant, [()]), "sentences": sentences}
