"""The data sets that captions are scored on, by name: their images, their ground truth and their CHAIR."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llava_hh.data import coco, nocaps
from llava_hh.data.coco import ImageAnnotations
from llava_hh.files.files import Skip
from llava_hh.files.ids import whole_id
from llava_hh.metrics.chair import chair
from llava_hh.metrics.chair import nocaps as nocaps_chair
from llava_hh.metrics.chair.variants import category_of_word, load_variant

ImageId = int | str
DATASETS = ("coco", "nocaps")


class Dataset(Protocol):
    """What differs between data sets.

    variant: the rules of CHAIR, as result files name them; id_expected: what `image_id` takes, for messages.
    """

    variant: str
    id_expected: str

    def image_id(self, value: object) -> ImageId:
        """The id of an image, of what a file has; ValueError for what cannot be one."""

    def category(self, name: str) -> str | None:
        """What an object of this name counts as; None where it counts as nothing."""

    def images(self, folder: Path, split: str) -> list[dict[str, Any]]:
        """`image_id` and `file_name` of the images of a split (nocaps: a domain), in file order."""

    def files(self, folder: Path) -> list[Path]:
        """The files that `annotations` reads."""

    def annotations(
        self, folder: Path, image_ids: Iterable[ImageId], cache: Path, allow_missing: bool = False, skip: Skip = None
    ) -> Mapping[ImageId, ImageAnnotations]:
        """Labels and reference captions of these images.

        Args:
            cache: a file for what is slow to read; skip: takes what is wrong with a bad row, which is left out.
        """

    def objects(self, annotations: Mapping[ImageId, ImageAnnotations]) -> dict[ImageId, set[str]]:
        """Ground truth: what is in each image."""

    def score(self, caption: str, objects: set[str]) -> dict[str, Any]:
        """CHAIR of one caption, in the keys of the result files."""


@dataclass(frozen=True)
class Coco:
    """COCO 2014 and whatever has its layout, by a variant of CHAIR.

    Raises:
        ValueError: an unknown variant, or one whose data is not installed.
    """

    variant: str = "hh"
    id_expected = "the whole number of an image"

    def __post_init__(self) -> None:
        load_variant(self.variant)

    def image_id(self, value: object) -> int:
        return whole_id(value)

    def category(self, name: str) -> str | None:
        return category_of_word().get(name.strip().lower())

    def images(self, folder: Path, split: str) -> list[dict[str, Any]]:
        return coco.load_image_list(folder / f"captions_{split}.json")

    def files(self, folder: Path) -> list[Path]:
        return coco.annotation_files(folder)

    def annotations(
        self, folder: Path, image_ids: Iterable[int], cache: Path, allow_missing: bool = False, skip: Skip = None
    ) -> dict[int, ImageAnnotations]:
        return coco.load_annotations(folder, image_ids, allow_missing=allow_missing, cache=cache, skip=skip)

    def objects(self, annotations: Mapping[int, ImageAnnotations]) -> dict[int, set[str]]:
        return chair.objects_of(annotations, self.variant)

    def score(self, caption: str, objects: set[str]) -> dict[str, Any]:
        return chair.score_caption(caption, objects, self.variant)


@dataclass(frozen=True)
class Nocaps:
    """nocaps' validation images by domain, and nocaps-CHAIR."""

    variant = nocaps_chair.VARIANT
    id_expected = "the Open Images id of an image, or its file's name"

    def image_id(self, value: object) -> str:
        return nocaps.image_id_of(value)

    def category(self, name: str) -> str | None:
        return nocaps_chair.load_rules().categories.get(name.strip().lower())

    def images(self, folder: Path, split: str) -> list[dict[str, Any]]:
        return nocaps.load_image_list(folder, split)

    def files(self, folder: Path) -> list[Path]:
        return nocaps.annotation_files(folder)

    def annotations(
        self, folder: Path, image_ids: Iterable[str], cache: Path, allow_missing: bool = False, skip: Skip = None
    ) -> dict[str, ImageAnnotations]:
        return nocaps.load_annotations(folder, image_ids, allow_missing, skip)  # seconds to read: nothing is kept

    def objects(self, annotations: Mapping[str, ImageAnnotations]) -> dict[str, set[str]]:
        return nocaps_chair.objects_of(annotations)

    def score(self, caption: str, objects: set[str]) -> dict[str, Any]:
        return nocaps_chair.score_caption(caption, objects)


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
        return Coco(variant)
    if variant != "hh":
        raise ValueError(f"--variant {variant}: nocaps-CHAIR has only the paper's rules; leave the flag out")
    return Nocaps()


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
    kept = {image for image, own in objects.items() if not names or names.isdisjoint(own) == (not with_object)}
    if not kept:
        raise ValueError(f"{spelled} {' '.join(sorted(names))}: leaves none of the {len(objects)} images")
    return kept
