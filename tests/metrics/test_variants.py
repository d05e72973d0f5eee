"""The variants of CHAIR against each other, word by word; `lemma` with WordNet and a tagger trained here."""

import re
import shutil
from pathlib import Path

import nltk
import pytest
from nltk.tag.perceptron import PerceptronTagger

from llava_hh.metrics.chair.chair import find_objects, score_caption
from llava_hh.metrics.chair.variants import LEMMA_DATA, load_synonyms, load_variant

WORDNET = Path("/usr/share/wordnet")  # Debian's package wordnet-base
# What differs between the variants: nodes in the order of the caption.
CASES = [
    ("a bus, an airbus and a minibus", [], ["bus", "airplane", "bus"], []),
    ("two buses", ["bus"], ["bus"], ["bus"]),
    ("a tie and two ties", ["tie"], ["tie", "tie"], ["tie"]),
    ("two bow ties", ["tie"], ["tie"], ["tie"]),  # where "ties" is lost, "bow" is a tie of its own
    ("a bow and two bow ties", ["tie", "tie"], ["tie", "tie"], ["tie", "tie"]),
    ("a motor bike and a cheesecake", [], ["motorcycle", "cake"], []),
    ("two motor bikes", [], ["motorcycle"], []),
    ("a wine glass and wine glasses", ["wine glass"] * 2, ["wine glass"] * 2, ["wine glass"] * 2),
    ("a toilet and two seats", ["toilet", "chair"], ["toilet", "chair"], ["toilet"]),
    ("adults with baby elephants", ["person", "elephant"], ["person", "elephant"], ["person", "elephant"]),
    ("hot dogs, dogs", ["hot dog", "dog"], ["hot dog", "dog"], ["hot dog", "dog"]),
    ("an iPhone and two iPhones", [], ["cell phone", "cell phone"], []),
    ("canoes, collies, doggies and magpies", [], ["boat", "dog", "dog", "bird"], []),
    ("women and men", ["person", "person"], ["person", "person"], ["person", "person"]),
]


@pytest.mark.parametrize(("caption", "hh", "clean", "original"), CASES)
def test_nodes_by_variant(caption, hh, clean, original):
    for variant, expected in (("hh", hh), ("clean", clean), ("original", original)):
        assert [mention.node for mention in find_objects(caption, variant)] == expected, variant


@pytest.mark.parametrize("variant", ["hh", "clean", "original"])
def test_spans_and_indices_hold_in_every_variant(variant):
    caption = "Two Hot dogs, some KNIVES and\n the women."
    found = find_objects(caption, variant)
    assert [caption[mention.start : mention.end] for mention in found] == ["Hot dogs", "KNIVES", "women"]
    entry = score_caption(caption, {"person"}, variant)
    assert [entry["words"][mention.index] for mention in found] == [mention.word for mention in found]
    expected = ["hot dog", "knives", "women"] if variant in ("hh", "clean") else ["hot dog", "knife", "person"]
    assert entry["mscoco_generated_words"] == expected


IRREGULAR = {"person": "people", "man": "men", "woman": "women", "child": "children", "sheep": "sheep"}


def plural_of(word: str) -> str:
    """By the rules of a grammar: -es after a hiss, -ies for a consonant and y, -ves for knives, calves and the like."""
    *before, last = word.split(" ")
    for ending, plural in IRREGULAR.items():
        if last.endswith(ending):
            return " ".join([*before, last.removesuffix(ending) + plural])
    if re.search(r"(s|x|z|ch|sh)$", last):
        return f"{word}es"
    if re.search(r"[^aeiou]y$", last):
        return f"{word[:-1]}ies"
    return re.sub("fe?$", "ves", word) if last in ("knife", "calf", "thief") else f"{word}s"


def test_every_word_of_the_list_is_found_by_clean_and_so_is_its_plural():
    missed = []
    for category, words in load_synonyms().items():
        for word in {word.strip() for word in words} - {"stove top oven"}:  # three words
            for form in (word, plural_of(word)):
                if [mention.node for mention in find_objects(f"the {form}", "clean")] != [category]:
                    missed.append(form)
    assert missed == []


@pytest.mark.parametrize("word", ["skies", "manes", "cares", "copies", "busies", "bookies", "dies", "pants", "caries"])
def test_words_that_only_look_like_plurals_are_no_objects_in_clean(word):
    assert find_objects(f"the {word}", "clean") == []


def has(path: str) -> bool:
    try:
        return bool(nltk.data.find(path))
    except LookupError:
        return False


INSTALLED = [name for name, kind in LEMMA_DATA.items() if has(f"{kind}/{name}") or has(f"{kind}/{name}.zip")]


@pytest.mark.skipif(bool(INSTALLED), reason="nltk's data is installed")
def test_lemma_says_what_it_needs():
    load_variant.cache_clear()
    expected = "python -m nltk.downloader averaged_perceptron_tagger_eng wordnet"
    with pytest.raises(ValueError, match=f"'lemma' needs nltk's data: {expected}"):
        load_variant("lemma")


@pytest.fixture
def lemma_data(tmp_path, monkeypatch):
    """WordNet's own files, and a tagger that has learnt the words of the test."""
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])  # nltk reads and writes nowhere else
    corpus = tmp_path / "corpora" / "wordnet"
    corpus.mkdir(parents=True)
    for path in WORDNET.iterdir():
        if path.is_file():
            shutil.copy(path, corpus)  # nltk follows no link out of its folder
    (corpus / "lexnames").write_text("".join(f"{number:02d}\tname{number}\t1\n" for number in range(45)))
    (corpus / "index.sense").touch()  # must be there; lemmas don't read it
    tagger = PerceptronTagger(load=False)
    tagged = "the/DT dogs/NNS are/VBP riding/VBG bikes/NNS ./. a/DT woman/NN skis/VBZ with/IN skis/NNS ./. "
    tagged += "two/CD buses/NNS ,/, ties/NNS and/CC knives/NNS ./. he/PRP ties/VBZ a/DT tie/NN ./."
    tagger.train([[tuple(pair.rsplit("/", 1)) for pair in tagged.split()]] * 4, nr_iter=8)
    folder = tmp_path / "taggers" / "averaged_perceptron_tagger_eng"
    tagger.save_to_json(lang="eng", loc=str(folder))
    load_variant.cache_clear()
    yield
    load_variant.cache_clear()


@pytest.mark.skipif(not WORDNET.is_dir(), reason="Debian's wordnet-base is not installed")
def test_lemma_goes_by_part_of_speech(lemma_data):
    def nodes(caption: str) -> list[str]:
        return [mention.node for mention in find_objects(caption, "lemma")]

    assert nodes("the dogs are riding bikes.") == ["dog", "bicycle"]
    assert nodes("two buses, ties and knives.") == ["bus", "tie", "knife"]  # no accidents with bus and ties
    assert nodes("a woman skis with skis.") == ["person", "skis", "skis"]
    entry = score_caption("two buses, ties and knives.", {"bus"}, "lemma")
    assert entry["mscoco_generated_words"] == ["bus", "tie", "knife"]
    assert entry["mscoco_hallucinated_words"] == [["tie", "tie"], ["knife", "knife"]]
