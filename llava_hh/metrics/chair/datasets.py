"""The data sets that captions are scored on, by name: their images, their ground truth and their CHAIR."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from llava_hh.data import coco, nocaps
from llava_hh.data.coco import ImageAnnotations
from llava_hh.files.ids import number_or_text, whole_id
from llava_hh.metrics.chair import chair
from llava_hh.metrics.chair import nocaps as nocaps_chair
from llava_hh.metrics.chair.variants import OWN, category_of_word, load_variant, own_variant

ImageId = int | str
DATASETS = ("coco", "nocaps")


@dataclass(frozen=True)
class Dataset:
    """What differs between data sets.

    Attributes:
        variant: the rules of CHAIR, as result files name them.
        id_expected: what `image_id` accepts, for messages.
        image_id: from a value in a file to the id of an image; ValueError for what cannot be one.
        category: from the name of an object to what it counts as; None where it counts as nothing.
        images: from a folder and a split (nocaps: a domain) to `image_id` and `file_name` of its images, in file order.
        files: from a folder to the files that `annotations` reads.
        annotations: from (folder, image ids, cache=, allow_missing=False, skip=None) to labels and reference captions.
            `cache` is a file for what is slow to read (COCO's); `skip` takes what is wrong with a bad row, which is
            left out; `allow_missing` leaves out images that the files don't have.
        objects: from annotations by image to ground truth: the categories in each image.
        score: CHAIR of a caption against the categories in its image, in the keys of the result files.
    """

    variant: str
    id_expected: str
    image_id: Callable[[object], ImageId]
    category: Callable[[str], str | None]
    images: Callable[[Path, str], list[dict[str, Any]]]
    files: Callable[[Path], list[Path]]
    annotations: Callable[..., Mapping[ImageId, ImageAnnotations]]
    objects: Callable[[Mapping[ImageId, ImageAnnotations]], dict[ImageId, set[str]]]
    score: Callable[[str, set[str]], dict[str, Any]]


def coco_dataset(variant: str) -> Dataset:
    """COCO 2014 and whatever has its layout, by a variant of CHAIR.

    Raises:
        ValueError: an unknown variant, or one whose data is not installed.
    """
    load_variant(variant)
    return Dataset(
        variant=variant,
        id_expected="the whole number of an image",
        image_id=whole_id,
        category=lambda name: category_of_word().get(name.strip().lower()),
        images=lambda folder, split: coco.load_image_list(folder / f"captions_{split}.json"),
        files=coco.annotation_files,
        annotations=coco.load_annotations,
        objects=partial(chair.objects_of, variant=variant),
        score=partial(chair.score_caption, variant=variant),
    )


def own_dataset(variant: str = "hh", vocabulary: Mapping[str, Sequence[str]] | None = None) -> Dataset:
    """Images of one's own, whose ids are any text.

    Args:
        vocabulary: categories, each with the words that stand for it; None: COCO's objects, by the variant.
    Raises:
        ValueError: an unknown variant, or a vocabulary that cannot be.
    """
    own = replace(coco_dataset(variant), id_expected="a whole number or a text", image_id=number_or_text)
    if vocabulary is None:
        return own
    rules = own_variant(vocabulary)
    digest = hashlib.sha256(json.dumps(vocabulary, sort_keys=True).encode()).hexdigest()
    return replace(
        own,
        variant=f"{OWN}{digest[:8]}",
        category=lambda name: rules.categories.get(rules.singular(" ".join(name.lower().split()))),
        objects=lambda known: chair.objects_by_rules(known, rules, vocabulary, "expected one of --synonyms"),
        score=lambda caption, objects: chair.score_by_rules(caption, objects, rules),
    )


def nocaps_dataset() -> Dataset:
    """nocaps' validation images by domain, and nocaps-CHAIR."""
    return Dataset(
        variant=nocaps_chair.VARIANT,
        id_expected="the Open Images id of an image, or its file's name",
        image_id=nocaps.image_id_of,
        category=lambda name: nocaps_chair.load_rules().categories.get(name.strip().lower()),
        images=nocaps.load_image_list,
        files=nocaps.annotation_files,
        annotations=lambda folder, image_ids, cache, **options: nocaps.load_annotations(folder, image_ids, **options),
        objects=nocaps_chair.objects_of,
        score=nocaps_chair.score_caption,
    )


def load_dataset(name: str, variant: str = "hh") -> Dataset:
    """Return a data set by its name.

    Args:
        variant: of CHAIR, for COCO; nocaps has one set of rules, the paper's, and "hh" stands for it.
    Raises:
        ValueError: no such data set or variant.
    """
    if name not in DATASETS:
        raise ValueError(f"data set {name!r} is not known; expected one of: {', '.join(DATASETS)}")
    if name == "coco":
        return coco_dataset(variant)
    if variant != "hh":
        raise ValueError(f"--variant {variant}: nocaps-CHAIR has only the paper's rules; leave the flag out")
    return nocaps_dataset()


def images_with_objects(
    objects: Mapping[ImageId, Iterable[str]], with_object: Sequence[str] | None, without_object: Sequence[str] | None
) -> set[ImageId]:
    """The images that have one of some objects, or none of some, by their ground truth; all where neither is named.

    Raises:
        ValueError: an object that is in none of the images, or no image is left.
    """
    spelled, names = "--with-object" if with_object else "--without-object", set(with_object or without_object or ())
    if unknown := names.difference(*objects.values()):
        raise ValueError(f"{spelled} {min(unknown)!r}: in none of the {len(objects)} images")
    kept = {image for image, shown in objects.items() if not names or names.isdisjoint(shown) == (not with_object)}
    if not kept:
        raise ValueError(f"{spelled} {' '.join(sorted(names))}: leaves none of the {len(objects)} images")
    return kept
