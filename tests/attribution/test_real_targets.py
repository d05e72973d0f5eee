"""Targets of attribution with the tokenizers that real models have (LLAVA_HH_REAL)."""

from random import Random

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llava_hh.metrics.chair.variants import load_synonyms
from llava_hh.models.original_config import load_tokenizer
from tests.support.real import real
from tests.support.spelling import check_targets

JSON, QWEN = ("tokenizer.json", "tokenizer_config.json"), ("vocab.json", "merges.txt", "tokenizer_config.json")
FILES = {
    "llava-v1.5-7b": ("tokenizer.model",),  # the original layout
    "yi-tokenizer-rebuilt": ("tokenizer.model",),
    "llava-1.5-7b-hf": JSON,
    "llama-2-7b-chat-hf": JSON,
    "yi-1.5-6b-merge": JSON,
    "qwen2.5-vl-7b": QWEN,
    "qwen3-vl-8b-cosmos-reason2": QWEN,
    "internvl3-8b-hf": QWEN,
    "llava-onevision-qwen2-7b-ov-hf": QWEN,
    "llama-3.2-11b-vision": JSON,
    "gemma-3-4b-it": JSON,
    "grounding-dino-tiny": JSON,  # WordPiece
}
BETWEEN = [
    "🍕",
    "❤️",
    "🇩🇪",
    "🇩🇪🇫🇷🇯🇵",
    "👩‍👩‍👧",
    "🍕🍔🍟",
    "龘",
    "齉龘靐",
    "é",
    "ï",
    "…",
    "“",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\ufffd",
]
CONTEXTS = [
    "A {0} and two {1}.",
    'There is a "{0}" (and {1}) - 🍕 {0}.',
    "A\n{0}, ï {1};\n\n{2}-like {0}.",
    "{2}s ❤️ {0}  {1}!",
]


@pytest.fixture(scope="module", params=FILES)
def tokenizer(request) -> PreTrainedTokenizerFast:
    folder = real(request.param, *FILES[request.param])
    is_original = FILES[request.param] == ("tokenizer.model",)
    return load_tokenizer(folder) if is_original else AutoTokenizer.from_pretrained(folder)


def test_every_synonym_of_chair(tokenizer):
    n_targets = 0
    for place, word in enumerate(word for words in load_synonyms().values() for word in words):
        text = CONTEXTS[place % len(CONTEXTS)].format(word, f"{word}s", word.capitalize())
        n_targets += check_targets(tokenizer, tokenizer(text, add_special_tokens=False).input_ids)
    assert n_targets > 800


def test_words_behind_characters_of_several_tokens(tokenizer):
    rng, n_targets = Random(3), 0
    for between in BETWEEN:
        ids = tokenizer(f"{between} dog and{between} a {between}cat", add_special_tokens=False).input_ids
        n_targets += check_targets(tokenizer, ids)
    for _ in range(100):
        parts = [rng.choice([*BETWEEN, " dog", " a traffic light", " two pizzas", " hot dogs"]) for _ in range(10)]
        n_targets += check_targets(tokenizer, tokenizer("".join(parts), add_special_tokens=False).input_ids)
    assert n_targets > 80
