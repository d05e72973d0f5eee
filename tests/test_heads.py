import json
import random
from pathlib import Path

import pytest
from transformers import (
    ChameleonConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    MistralConfig,
    MllamaConfig,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig

from llava_hh.command_line.profiles import read_profile
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
from tests.support.tiny_minigpt4 import tiny_minigpt4


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


SHAPES = {  # of each published list: layers, heads, key heads, width, architecture of the text model
    "llava-v1.5-7b": (LlavaConfig, LlamaConfig, 32, 32, 32, 4096),
    "llava-v1.5-13b": (LlavaConfig, LlamaConfig, 40, 40, 40, 5120),
    "llava-v1.6-34b": (LlavaNextConfig, LlamaConfig, 60, 56, 8, 7168),
    "llama-3.2-11b-vision": (MllamaConfig, MllamaTextConfig, 40, 32, 8, 4096),
    "mini": (LlavaConfig, LlamaConfig, 30, 9, 3, 576),
}


def config_of(whole, text, n_layers, n_heads, n_key_heads, width):
    names = {"num_hidden_layers": n_layers, "num_attention_heads": n_heads, "num_key_value_heads": n_key_heads}
    return whole(text_config=text(**names, hidden_size=width))


@pytest.mark.parametrize("name", SHAPES)
def test_published_lists_fit_their_models(name):
    config = config_of(*SHAPES[name])
    path = published_list(config)
    assert path.stem == name
    check_heads(load_heads(path), *SHAPES[name][2:4])


@pytest.mark.parametrize(("n_layers", "n_heads", "n_key_heads", "width"), [(32, 32, 32, 4096), (48, 64, 8, 8192)])
def test_published_lists_of_chameleon(n_layers, n_heads, n_key_heads, width):
    names = {"num_hidden_layers": n_layers, "num_attention_heads": n_heads, "num_key_value_heads": n_key_heads}
    path = published_list(ChameleonConfig(**names, hidden_size=width))
    assert path.stem == {32: "chameleon-7b", 48: "chameleon-30b"}[n_layers]
    check_heads(load_heads(path), n_layers, n_heads)


def test_the_published_list_of_minigpt4():
    config = tiny_minigpt4().config
    text = config.get_text_config()
    text.num_hidden_layers, text.hidden_size = 32, 4096
    text.num_attention_heads = text.num_key_value_heads = 32
    assert published_list(config).stem == "minigpt4"


def test_a_model_of_another_architecture_has_no_published_list():
    """BakLLaVA and LLaVA on Llama 3 are a llava of 32 layers of 32 heads as well."""
    for text, n_key_heads in ((MistralConfig, 8), (LlamaConfig, 8)):
        with pytest.raises(ValueError, match="no heads are published for a llava of 32 layers of 32 heads, 8 of keys"):
            published_list(config_of(LlavaConfig, text, 32, 32, n_key_heads, 4096))
    with pytest.raises(ValueError, match=r"\(llama\): give those .* there are chameleon-30b, .*mini, minigpt4$"):
        published_list(config_of(LlavaConfig, LlamaConfig, 30, 9, 9, 576))


@pytest.mark.parametrize(
    ("name", "profile"),
    [(name, name) for name in ("llava-v1.5-7b", "llava-v1.5-13b", "llava-v1.6-34b", "minigpt4", "mini")],
)
def test_published_settings_are_those_of_the_profile(name, profile):
    listed, settings = json.loads((PUBLISHED / f"{name}.json").read_text()), read_profile(profile)
    assert (listed["top_k"], listed["threshold"]) == (int(settings["top_k"]), float(settings["threshold"]))
    assert len(listed["hal_heads"]) >= listed["top_k"]
