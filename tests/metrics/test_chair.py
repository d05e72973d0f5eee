"""CHAIR on captions worked out by hand, variant hh."""

import random

import pytest
from nltk.tokenize.destructive import NLTKWordTokenizer

from llava_hh.data.coco import load_annotations
from llava_hh.metrics.chair.chair import corpus_metrics, find_objects, objects_of, score_caption
from llava_hh.metrics.chair.variants import load_synonyms
from llava_hh.metrics.chair.words import _PLAIN, _split_sentence, drop_incomplete_sentence, split_sentences, tokenize
from llava_hh.metrics.of_captions import METRICS
from llava_hh.metrics.statistics import summarise
from tests.support.coco_files import write_coco


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A dog and two cats.", [("dog", "dog"), ("cats", "cat")]),
        ("A woman sits at the table.", [("woman", "person"), ("table", "dining table")]),
        ("Dogs, dogs, a dog", [("dogs", "dog"), ("dogs", "dog"), ("dog", "dog")]),
        ("Nothing but sky.", []),
        ("", []),
        # double words
        ("Two hot dogs beside a dog.", [("hot dog", "hot dog"), ("dog", "dog")]),
        ("hot, dog", [("dog", "dog")]),
        ("traffic lights at a stop sign", [("traffic light", "traffic light"), ("stop sign", "stop sign")]),
        ("a wine glass and wine glasses", [("wine glass", "wine glass"), ("wine glass", "wine glass")]),
        ("a man in a bow tie", [("man", "person"), ("tie", "tie")]),
        ("two stove top ovens", [("stove", "oven"), ("ovens", "oven")]),
        ("a motor bike, a motorbike, a motor cycle", [("motorbike", "motorcycle"), ("motor cycle", "motorcycle")]),
        # double words that swallow one
        ("the batter at home plate", []),
        ("a train on the train tracks", [("train", "train")]),
        ("train station, train tracks", [("train", "train")]),
        # baby and adult, passenger
        ("a baby and a baby bear", [("baby", "person"), ("bear", "bear")]),
        ("adult elephants with a baby elephant", [("elephant", "elephant"), ("elephant", "elephant")]),
        ("an adult animal, a baby animal", []),
        ("a passenger train and a passenger jet", [("train", "train"), ("jet", "airplane")]),
        ("the passenger of a train", [("passenger", "person"), ("train", "train")]),
        # toilet and seat
        ("a toilet seat", [("toilet", "toilet")]),
        ("a toilet whose seat is up", [("toilet", "toilet")]),
        ("a toilet seat and a seat", [("toilet", "toilet")]),
        ("a toilet and two seats", [("toilet", "toilet"), ("seats", "chair")]),
        ("the seat of a car", [("seat", "chair"), ("car", "car")]),
        # words that the rules for the singular lose
        ("a bus and an airbus", []),
        ("two buses", [("buses", "bus")]),
        ("a tie and two ties", [("tie", "tie")]),
        ("two collies and a collie", [("collie", "dog")]),
        ("a cheesecake on an iPhone", []),
        # words as nltk cuts them
        ("A man's dog's bowl", [("man", "person"), ("dog", "dog"), ("bowl", "bowl")]),
        ('He sits on the "couch".', [("couch", "couch")]),
        ("A dog-cat, a (cat)", [("cat", "cat")]),
        ("A cat.A dog.", [("dog", "dog")]),
    ],
)
def test_objects_of_a_caption(caption, expected):
    assert [(mention.word, mention.node) for mention in find_objects(caption)] == expected


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ('A dog. " a cat', ["a", "dog.", "``", "a", "cat"]),
        ("A dog.? A cat.! A bus", ["a", "dog.", "?", "a", "cat.", "!", "a", "bus"]),
        ("“Beware of dog.” A cat", ["“", "beware", "of", "dog", ".", "”", "a", "cat"]),
        ("A 'dog' 'cat'", ["a", "'", "dog", "'", "'", "cat", "'"]),
    ],
)
def test_words_around_odd_marks_are_those_of_nltk(caption, words):
    """What nltk.word_tokenize gives, 3.10.4 with its English model: a mark may hide an object."""
    assert [token.word for token in tokenize(caption)] == words


def test_offsets_and_indices_point_at_the_mention():
    caption = 'The "Dogs" eat\nhot  dogs.\n\n"BABY bears" sit. It\'s a toilet seat with a seat, on a "chair".'
    found = find_objects(caption)
    texts = [caption[mention.start : mention.end] for mention in found]
    assert texts == ["Dogs", "hot  dogs", "BABY bears", "toilet seat", "chair"]
    words = score_caption(caption, set())["words"]
    assert [words[mention.index] for mention in found] == ["dogs", "hot dog", "bear", "toilet", "chair"]
    assert words[:4] == ["the", "``", "dogs", "''"]


@pytest.mark.parametrize(
    "caption", ["İ: a dog. Ⅻ cats", "``a'' \"dog\" ''b'' – cannot… “cat”", "a dog", " \n a dog \t"]
)
def test_offsets_of_odd_text(caption):
    for mention in find_objects(caption):
        assert caption[mention.start : mention.end].lower() == mention.word
    assert find_objects(caption)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("a dog. a cat.", ["a dog.", "a cat."]),
        ("a dog.\n\na cat", ["a dog.", "a cat"]),
        ('"a dog." then', ['"a dog."', "then"]),
        ("it is 5 p.m. on st. james", ["it is 5 p.m. on st. james"]),
        ("no. 3. the dog", ["no.", "3. the dog"]),
        ("wait... a dog? yes! (no.) so", ["wait... a dog?", "yes!", "(no.)", "so"]),
        ('a dog. " a cat', ['a dog. "', "a cat"]),
        ("a dog.? a cat.! a bus", ["a dog.?", "a cat.!", "a bus"]),
        ("“beware of dog.” a cat", ["“beware of dog.”", "a cat"]),
        ("a hot-dog. see fig-st. a cat", ["a hot-dog.", "see fig-st. a cat"]),
        ("", [""]),
    ],
)
def test_sentences(text, sentences):
    assert [text[start:end] for start, end in split_sentences(text)] == sentences


@pytest.mark.parametrize(
    ("caption", "kept"),
    [
        ("A dog. The cat", "A dog."),
        ("A dog. The cat. ", "A dog. The cat."),
        ("A dog and a", "A dog and a"),
        ("A dog at 5 p.m. with a", "A dog at 5 p.m. with a"),
        ('A "dog." Is it? Maybe', 'A "dog." Is it?'),
        ('He says "yes!"', 'He says "yes!"'),
        ("A dog.\n\nThe İ cat! And", "A dog.\n\nThe İ cat!"),
        ("", ""),
    ],
)
def test_an_unfinished_last_sentence_is_dropped(caption, kept):
    assert drop_incomplete_sentence(caption) == kept


def test_only_the_period_that_ends_a_sentence_is_cut_off():
    words = [token.word for token in tokenize("At 5 p.m. a dog. St. James' cat cost $3.50.")]
    assert words == ["at", "5", "p.m.", "a", "dog", ".", "st.", "james", "'", "cat", "cost", "$", "3.50", "."]


def test_sentence_entry():
    caption = "A man walks a dog; the dog sees two hot dogs."
    entry = score_caption(caption, {"dog", "person", "car"})
    assert entry["mscoco_hallucinated_words"] == [["hot dog", "hot dog"]]
    assert entry["mscoco_non_hallucinated_words"] == [["man", "person"], ["dog", "dog"], ["dog", "dog"]]
    assert entry["mscoco_gt_words"] == ["car", "dog", "person"]
    assert entry["mscoco_generated_words"] == ["man", "dog", "dog", "hot dog"]
    assert entry["words"] == ["a", "man", "walks", "a", "dog", ";", "the", "dog", "sees", "two", "hot dog", "."]
    assert entry["hallucination_idxs"] == [10]
    assert entry["non_hallucination_idxs"] == [1, 4, 7]
    assert entry["mentions"][-1] == {"word": "hot dog", "node": "hot dog", "start": 36, "end": 44, "hallucinated": True}
    assert [mention["hallucinated"] for mention in entry["mentions"]] == [False, False, False, True]
    # named: hot dog, person, dog; there: dog, person, car
    assert entry["metrics"] == {"CHAIRs": 1, "CHAIRi": 1 / 4, "precision": 2 / 3, "recall": 2 / 3, "f1": 4 / 6}


def test_no_objects_and_no_ground_truth_give_zero():
    zeros = dict.fromkeys(("CHAIRs", "CHAIRi", "precision", "recall", "f1"), 0)
    assert score_caption("Blue sky.", set())["metrics"] == zeros
    overall = corpus_metrics([score_caption("Blue sky.", set())])
    assert (overall["CHAIRs"], overall["CHAIRi"], overall["recall"], overall["n"]) == (0.0, 0.0, 0.0, 1)
    assert corpus_metrics([])["CHAIRs"] == 0.0


def test_corpus_numbers():
    sentences = [
        score_caption("A dog, a dog and a cat.", {"dog", "car"}),  # 3 mentions, 1 wrong; finds 1 of 2; 9 items
        score_caption("A cup on a table.", {"cup", "dining table"}),  # 2 mentions, 0 wrong; finds 2 of 2; 6 items
        score_caption("Blue sky", {"kite"}),  # no mention; finds 0 of 1; 2 items
        score_caption("hot dogs", {"dog"}),  # 1 mention, wrong; finds 0 of 1; 1 item
    ]
    assert corpus_metrics(sentences) == {
        "CHAIRs": 2 / 4,
        "CHAIRi": 2 / 6,
        "precision": 3 / 5,  # named: dog, cat; cup, dining table; hot dog
        "recall": 3 / 6,
        "f1": 2 * 3 / (5 + 6),
        "mentions": 6 / 4,
        "distinct": 5 / 4,
        "repeated": 1 / 6,  # the second dog
        "length": 18 / 4,
        "n": 4,
        "n_mentions": 6,
        "n_hallucinated_mentions": 2,
        "variant": "hh",
    }


def test_corpus_numbers_are_those_that_get_intervals():
    captions = [("A dog, a dog and a cat.", {"dog", "car"}), ("A cup on a table.", {"cup"}), ("Blue sky", {"kite"})]
    sentences = [{"image_id": n, **score_caption(*each)} for n, each in enumerate(captions)]
    overall, summary = corpus_metrics(sentences), summarise(sentences)
    assert {name: overall[name] for name in METRICS} == pytest.approx(
        {name: summary[name] for name in METRICS}, abs=1e-5
    )
    assert list(summary["interval"]) == list(METRICS)


@pytest.mark.parametrize("score", [find_objects, lambda text, variant: score_caption(text, set(), variant)])
def test_unknown_variant(score):
    with pytest.raises(ValueError, match="'chair' is not known; expected one of: hh, clean, original, lemma"):
        score("a dog", variant="chair")


def test_synonyms_keep_the_sources_two_words_with_a_leading_blank():
    words = [word for words in load_synonyms().values() for word in words]
    assert [word for word in words if word != word.strip()] == [" motor bike", " cheesecake"]
    assert all(words[0] == category for category, words in load_synonyms().items())


def test_ground_truth_joins_instances_and_captions(tmp_path):
    assert objects_of(load_annotations(write_coco(tmp_path), [2, 1])) == {2: {"bus"}, 1: {"dog", "person", "hot dog"}}


def test_plain_sentences_are_split_as_nltk_does():
    rng, n_plain = random.Random(0), 0
    words = ["a", "cat", "dog", "wine-glass", "-", "x-", "gonna", "cannot", "i'm", "it's", "--", "2", "u.s.", "e.g"]
    words += ["don't", "mr", "fork"]
    for _ in range(3000):
        parts = rng.choices(words[: rng.choice((6, len(words)))], k=rng.randrange(1, 7))
        text = "".join(part + rng.choice((" ", " ", " ", ", ", ",")) for part in parts).rstrip(rng.choice((" ", " ,")))
        sentence = text + rng.choice((".", "", "?", "!", "..", ","))
        n_plain += bool(_PLAIN.fullmatch(sentence))
        assert _split_sentence(sentence) == NLTKWordTokenizer().tokenize(sentence), sentence
    assert 500 < n_plain < 2500
