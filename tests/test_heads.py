import json
import random
from pathlib import Path

import pytest

from llava_hh.heads import (
    PUBLISHED,
    Head,
    by_layer,
    check_heads,
    literal_heads,
    load_heads,
    published_list,
    random_heads,
)


@pytest.fixture
def head_file(tmp_path):
    path = tmp_path / "attribution_result.json"
    path.write_text(json.dumps({"hal_heads": [[16, 29], [2, 0], [16, 3]], "non_hal_heads": [[0, 1]], "n": 3}))
    return path


def test_head_prints_as_the_field_writes_it():
    assert str(Head(16, 29)) == f"{Head(16, 29)}" == "L16H29"
    assert json.dumps(Head(16, 29)) == "[16, 29]"


def test_by_layer_sorts_and_drops_repeats():
    assert by_layer([(3, 2), Head(1, 5), (3, 0), (3, 2)]) == {1: [5], 3: [0, 2]}
    assert list(by_layer([(3, 2), (1, 5)])) == [1, 3]
    assert by_layer([]) == {}


def test_by_layer_takes_pairs_of_any_kind():
    assert by_layer([[1, 0], Head(0, 2), (1, 0)]) == {0: [2], 1: [0]}


def test_load_heads_keeps_the_order_of_the_file(head_file):
    assert load_heads(head_file) == [Head(16, 29), Head(2, 0), Head(16, 3)]
    assert load_heads(head_file, top_k=2) == [Head(16, 29), Head(2, 0)]
    assert load_heads(str(head_file), key="non_hal_heads") == [Head(0, 1)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["not JSON"]),
        ("[[1, 2]]", ["no head list 'hal_heads'", "a list"]),
        ('{"heads": []}', ["no head list 'hal_heads'", "'heads'"]),
        ('{"hal_heads": 5}', ["'hal_heads'", "5"]),
        ('{"hal_heads": [[1, 2], [3]]}', ["hal_heads[1]", "[3]"]),
        ('{"hal_heads": [[1, -2]]}', ["hal_heads[0]", "-2"]),
        ('{"hal_heads": [[1, true]]}', ["hal_heads[0]", "True"]),
        ('{"hal_heads": [[1, 2.0]]}', ["hal_heads[0]", "2.0"]),
        ('{"hal_heads": [[1, 2], [1, 2]]}', ["hal_heads[1]", "repeats L1H2"]),
    ],
)
def test_load_heads_names_file_and_fault_in_one_line(tmp_path, content, words):
    path = tmp_path / "heads.json"
    path.write_text(content)
    with pytest.raises(ValueError) as caught:
        load_heads(path)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in ["heads.json", *words])


def test_heads_that_are_written_out_are_a_list():
    assert literal_heads("L24H4,L23H3") == literal_heads(Path("L24H4, L23H3")) == [Head(24, 4), Head(23, 3)]
    assert load_heads("L24H4,L23H3") == load_heads(Path("L24H4,L23H3"), top_k=2) == [Head(24, 4), Head(23, 3)]
    for name in ("heads.json", "L24", "L24H4,", "L24H4/L23H3", None):
        assert literal_heads(name) == []
    with pytest.raises(ValueError, match="L1H1,L1H1: the list repeats L1H1"):
        load_heads("L1H1,L1H1")
    with pytest.raises(ValueError, match="L1H1: heads that are written out have no list 'non_hal_heads'; name a head-"):
        load_heads("L1H1", "non_hal_heads")


def test_load_heads_says_how_many_there_are(head_file):
    with pytest.raises(ValueError, match=r"attribution_result\.json.*'hal_heads' has 3 heads, 4 were asked for"):
        load_heads(head_file, top_k=4)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        load_heads(head_file, top_k=0)


def test_random_heads_depend_on_the_seed_alone():
    random.seed(1)
    before = random.getstate()
    drawn = random_heads(4, 8, 10, seed=7)
    assert random.getstate() == before
    random.seed(2)
    assert random_heads(4, 8, 10, seed=7) == drawn != random_heads(4, 8, 10, seed=8)
    assert len(set(drawn)) == 10
    check_heads(drawn, 4, 8)


def test_random_heads_leave_the_excluded_out():
    excluded = [(0, 0), (1, 1)]
    assert set(random_heads(2, 2, 2, seed=0, exclude=excluded)) == {Head(0, 1), Head(1, 0)}
    with pytest.raises(ValueError, match="the 2 heads to draw from, not 3"):
        random_heads(2, 2, 3, seed=0, exclude=excluded)


@pytest.mark.parametrize("head", [(2, 0), (0, 3), (-1, 0), (0, -1)])
def test_check_heads_names_the_head_and_the_size(head):
    check_heads([(0, 0), (1, 2)], n_layers=2, n_heads=3)
    with pytest.raises(IndexError, match=rf"L{head[0]}H{head[1]}.*2 layers of 3 heads"):
        check_heads([(0, 0), head], n_layers=2, n_heads=3)


@pytest.mark.parametrize(
    ("kind", "n_layers", "n_heads", "first", "count"),
    [
        ("llava", 32, 32, Head(16, 29), 30),
        ("llava", 40, 40, None, 35),
        ("llava_next", 60, 56, None, 10),
        ("minigpt4", 32, 32, None, 20),
        ("mllama", 40, 32, None, 10),
        ("chameleon", 32, 32, Head(25, 2), 10),
        ("chameleon", 48, 64, None, 10),
        ("llava", 30, 9, Head(23, 3), 30),
    ],
)
def test_published_lists_fit_their_models(kind, n_layers, n_heads, first, count):
    heads = load_heads(published_list(kind, n_layers, n_heads))
    check_heads(heads, n_layers, n_heads)
    assert len(heads) == count and first in (None, heads[0])


def test_there_is_a_model_for_every_published_list_and_no_other():
    assert len(list(PUBLISHED.glob("*.json"))) == 8
    with pytest.raises(ValueError, match="none for a llava of 30 layers of 8 heads; there are chameleon-30b, "):
        published_list("llava", 30, 8)
