"""nocaps-CHAIR: CHAIR over the 90 coarse classes of Open Images ("Kitchenware", "Furniture") instead of COCO's 80.

A mention is hallucinated if the image has nothing of its class. So "a spoon" is right where there is only a hammer, for
both are tools, and the numbers are not comparable with those on COCO.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

from llava_hh.data.coco import ImageAnnotations
from llava_hh.metrics.chair.chair import Mention, read_caption, score_by_rules
from llava_hh.metrics.chair.variants import Variant, all_singular

VARIANT = "nocaps"  # what result files name these rules


@lru_cache(maxsize=1)
def load_classes() -> dict[str, tuple[str, ...]]:
    """Return the Open Images labels of each of the 90 classes, in the order of their source."""
    table = json.loads(files("llava_hh.metrics.chair").joinpath("nocaps_classes.json").read_text(encoding="utf-8"))
    return {name: tuple(labels) for name, labels in table["classes"].items()}


@lru_cache(maxsize=1)
def class_of_label() -> dict[str, str]:
    """Return the class of each label, in lower case: "Teddy bear" -> "animal"; of several classes the last one."""
    return {label: name.lower() for name, labels in load_classes().items() for label in labels}


@lru_cache(maxsize=1)
def load_rules() -> Variant:
    """Return how a caption is read: each word in the singular, then pairs of words, then what is a label of a class.

    Source: the paper's repository, nocaps evaluation. Every label counts as written and words are looked up in the
    singular only, so labels that are a plural or lose an "s" ("Jeans", "French fries", "Bus") are never found, nor are
    labels of three words or with brackets ("Bat (Animal)"). None of CHAIR's other double words holds here.
    """
    class_of = {label.lower(): name for label, name in class_of_label().items()}
    pairs = {label: label for label in class_of if label.count(" ") == 1}
    return Variant(all_singular, str, class_of, records_nodes=True, double_words=pairs)


def find_classes(caption: str) -> list[Mention]:
    """Return the labels that `caption` names, in order, one entry a mention; `node` is the class, in lower case."""
    return read_caption(caption, load_rules())[1]


def score_caption(caption: str, objects: set[str]) -> dict[str, Any]:
    """Score one caption against the classes in its image; the keys are those of CHAIR on COCO, `mscoco_` included.

    Args:
        objects: ground truth, classes in lower case, see `objects_of`.
    Differs: the paper's code writes other keys (`valid_hallucinated_words`, ...) and indices of words before pairs were
        joined; here all scripts that read CHAIR's results read these too.
    """
    return score_by_rules(caption, objects, load_rules())


def objects_of(annotations: Mapping[str, ImageAnnotations]) -> dict[str, set[str]]:
    """Return the classes in each image, in lower case: those of its labels and those its reference captions name.

    A label outside the 90 classes, which Open Images has thousands of, counts for nothing.

    Args:
        annotations: by image id, from `llava_hh.data.nocaps.load_annotations`.
    Raises:
        ValueError: images with labels, none of which is in a class.
    Differs: the paper's code looks a caption's class up a second time, as if it were a label. It changes nothing, for
        each class has its own name among its labels and no other class has.
    """
    classes = class_of_label()
    labels = {label for image in annotations.values() for label in image.categories}
    if labels and not labels & classes.keys():
        raise ValueError(f"label {min(labels)!r} and all others are in no class; expected labels such as 'Tin can'")
    objects = {}
    for image_id, image in annotations.items():
        named = {mention.node for caption in image.captions for mention in find_classes(caption)}
        objects[image_id] = named.union(classes[label] for label in image.categories & classes.keys())
    return objects
