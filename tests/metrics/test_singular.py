"""The singular of nouns as the CHAIR reference forms it, mistakes included; and that it keeps COCO's words apart."""

import pytest

from llava_hh.metrics.chair.singular import singularize
from llava_hh.metrics.chair.variants import load_synonyms


@pytest.mark.parametrize(
    ("word", "singular"),
    [
        ("dogs", "dog"),
        ("benches", "bench"),
        ("boxes", "box"),
        ("dishes", "dish"),
        ("puppies", "puppy"),
        ("knives", "knife"),
        ("wolves", "wolf"),
        ("leaves", "leaf"),
        ("men", "man"),
        ("women", "woman"),
        ("people", "person"),
        ("geese", "goose"),
        ("mice", "mouse"),
        ("buses", "bus"),
        ("donuts", "donut"),
        ("potatoes", "potato"),
        ("skis", "ski"),
        ("dog", "dog"),
        ("couch", "couch"),
        ("", ""),
    ],
)
def test_common_nouns(word, singular):
    assert singularize(word) == singular


@pytest.mark.parametrize(
    ("word", "singular"),
    [
        ("bus", "bu"),  # the singular of "bus" itself is lost
        ("airbus", "airbu"),
        ("ties", "ty"),  # "^tie" in the source's list is plain text
        ("hour", "hmy"),  # "our" -> "my" is an ending
        ("scissors", "scissors"),
        ("bison", "bison"),
        ("ears", "ears"),  # the end of "shears"
        ("bears", "bear"),
        ("carp", "carp"),  # the end of the glued "wildebeestcarp"
        ("waters", "water"),
        ("cookies", "cookies"),
        ("zombies", "zombie"),
        ("glass", "glass"),
        ("glasses", "glass"),
        ("wine glasses", "wine glass"),
        ("psychoanalyses", "psychoanalyasis"),
        ("taxi", "taxi"),
        ("safari", "safarus"),
    ],
)
def test_mistakes_of_the_source_are_kept(word, singular):
    assert singularize(word) == singular


@pytest.mark.parametrize(
    ("word", "singular"),
    [
        ("mothers-in-law", "mother-in-law"),
        ("t-shirts", "t-shirt"),
        ("dogs'", "dog's"),
        ("hot dogs", "hot dog"),
        ("traffic lights", "traffic light"),
    ],
)
def test_compounds(word, singular):
    assert singularize(word) == singular


def test_of_all_words_for_coco_objects_only_three_are_lost_and_none_changes_its_category():
    category_of = {word: category for category, words in load_synonyms().items() for word in words}
    assert len(load_synonyms()) == 80
    assert len(category_of) == sum(len(words) for words in load_synonyms().values()) == 403
    lost = {word for word in category_of if singularize(word) not in category_of}
    assert lost == {"bus", "airbus", "minibus"}
    assert all(category_of[singularize(word)] == category for word, category in category_of.items() if word not in lost)
