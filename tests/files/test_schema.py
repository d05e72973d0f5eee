"""How JSON files are laid out, and which version of their keys they have."""

import json
import random

import pytest

from llava_hh.files.files import read_json, read_result, write_json
from llava_hh.files.schema import SCHEMA_VERSION, json_pieces
from llava_hh.heads import Head


def something(rng: random.Random, depth: int) -> object:
    plain = [None, True, 3, -0.25, "", 'a "b"\n\u2028é', [], {}, [1, 2.5], (4, 5), Head(1, 2)]
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(plain)
    inner = [something(rng, depth - 1) for _ in range(rng.randrange(4))]
    keys = rng.sample(["a", "sentences", "ü", 7, 0.5, True, None], len(inner))
    return rng.choice([inner, tuple(inner), dict(zip(keys, inner, strict=True))])


@pytest.mark.parametrize("seed", range(200))
def test_the_layout_is_the_same_json(seed):
    content = something(random.Random(seed), 4)
    assert json.loads("".join(json_pieces(content))) == json.loads(json.dumps(content))


def test_a_head_an_interval_and_a_sentence_are_one_line_each(tmp_path):
    sentence = {"caption": "A dog.", "mentions": [{"word": "dog"}]}
    content = {"hal_heads": [Head(23, 3), Head(0, 1)], "interval": {"recall": [0.1, 0.2]}, "sentences": [sentence] * 2}
    write_json(tmp_path / "a.json", content | {"run": {}})
    assert (tmp_path / "a.json").read_text().splitlines() == [
        "{",
        ' "schema_version": 2,',
        ' "hal_heads": [',
        "  [23, 3],",
        "  [0, 1]",
        " ],",
        ' "interval": {',
        '  "recall": [0.1, 0.2]',
        " },",
        ' "sentences": [',
        f"  {json.dumps(sentence)},",
        f"  {json.dumps(sentence)}",
        " ],",
        ' "run": {}',
        "}",
    ]


@pytest.mark.parametrize(
    ("content", "schema"), [({"run": {}}, 1), ({"run": {}, "schema_version": 3}, 3), ({"schema_version": "2"}, "'2'")]
)
def test_results_of_another_version_are_refused_with_what_to_do(tmp_path, content, schema):
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=rf"summary.json: another version .*\(schema {schema}, not 2\); give the command"
    ):
        read_result(path)


def test_results_say_their_version_and_other_files_need_none(tmp_path):
    for name, content in (("result", {"run": {"argv": []}, "n": 1}), ("list", {"hal_heads": [[1, 2]]})):
        write_json(tmp_path / f"{name}.json", content)
        assert {**read_result(tmp_path / f"{name}.json"), "schema_version": None} == content | {"schema_version": None}
    assert read_json(tmp_path / "result.json")["schema_version"] == SCHEMA_VERSION
    assert "schema_version" not in read_json(tmp_path / "list.json")
