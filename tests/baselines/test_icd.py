import math

import pytest
import torch

from llava_hh.baselines import icd
from llava_hh.baselines.icd import IcdSettings
from llava_hh.baselines.sampling import draw_tokens, sample_generator
from llava_hh.decoding.method import generate_greedily
from llava_hh.models import llava
from llava_hh.models.chat import Asked, render
from llava_hh.models.llava_next import PROMPTS
from llava_hh.models.lvlm import load_lvlm
from tests.support.questions import IMAGES, QUESTIONS
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.tiny_llava15 import save_tiny_llava15
from tests.support.tiny_newer import save_tiny_family

TEMPLATES = {
    "qwen2_5_vl": "{% if messages[0]['role'] != 'system' %}system\nYou are helpful.\n{% endif %}"
    "{% for m in messages %}{{ m['role'] }}\n{% for part in m['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant\n{% endif %}",
    "chatml_direct": PROMPTS["chatml_direct"],
    "vicuna_v1": PROMPTS["vicuna_v1"],
    "llava": "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
    "{% for part in m['content'] %}{{ '<image>\n' if part['type'] == 'image' else part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
}
N_TOKENS, IDS = 5, ["a", "b", "c", "d"]
STRONG = [
    IcdSettings(2.0, 0.02, "a cat and the dog", do_sample=False),
    IcdSettings(3.0, 0.3, "describe the cat", "question", do_sample=True, seed=3),
    IcdSettings(1.0, 0.02, "the cat", formula="paper", do_sample=False),
]


@pytest.fixture(scope="module", params=["gqa", "mha", "qwen2_5_vl", "llava15"])
def lvlm(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("family") / request.param
    if request.param == "qwen2_5_vl":
        save_tiny_family(request.param, folder)
    elif request.param == "llava15":
        save_tiny_llava15(folder)
    else:
        save_tiny_checkpoint(folder, n_kv={"gqa": 2, "mha": 4}[request.param])
    return load_lvlm(folder)


@torch.no_grad()
def last_logits(lvlm, image, question, answer):
    """After a whole uncached pass of one row; -inf where the model says nothing."""
    batch = lvlm.encode([image], [question], [answer])
    logits = lvlm.model(**batch.inputs, use_cache=False).logits[0, -1]
    logits[lvlm.model.generation_config.suppress_tokens or []] = -torch.inf
    return logits


@pytest.mark.parametrize("settings", STRONG)
def test_tokens_follow_from_two_uncached_generations(lvlm, settings):
    batch = lvlm.encode(IMAGES, QUESTIONS, sample_ids=IDS)
    rows, ends = icd.decode(lvlm, batch, settings, N_TOKENS), lvlm.end_token_ids
    for image, question, name, row in zip(IMAGES, QUESTIONS, IDS, rows, strict=True):
        generator, answer = sample_generator(settings.seed, name, "tokens"), []
        while len(answer) < N_TOKENS:
            shown = last_logits(lvlm, image, question, answer)
            if settings.place == "system" and getattr(lvlm.family, "speaks_vicuna", False):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(llava, "VICUNA_SYSTEM", settings.role)
                    misled = last_logits(lvlm, image, question, answer)
            else:
                misled = last_logits(lvlm, image, f"{settings.role} {question}", answer)
            scores = ((1 + settings.alpha) if settings.formula == "code" else 1) * shown - settings.alpha * misled
            scores[shown < shown.max() + math.log(settings.beta)] = -torch.inf
            token = draw_tokens(scores[None], [generator]).item() if settings.do_sample else scores.argmax().item()
            if token in ends:
                break
            answer.append(token)
        assert row == answer
    greedy = [answer.token_ids for answer in generate_greedily(lvlm, batch, N_TOKENS)]
    assert rows != greedy
    alone = [
        lvlm.encode(*([each] for each in row[:2]), sample_ids=row[2:])
        for row in zip(IMAGES, QUESTIONS, IDS, strict=True)
    ]
    assert rows == [icd.decode(lvlm, one, settings, N_TOKENS)[0] for one in alone]


def test_no_contrast_is_greedy(lvlm):
    batch = lvlm.encode(IMAGES, QUESTIONS, sample_ids=IDS)
    greedy = [answer.token_ids for answer in generate_greedily(lvlm, batch, N_TOKENS)]
    assert icd.decode(lvlm, batch, IcdSettings(alpha=0, do_sample=False), N_TOKENS) == greedy


@pytest.mark.parametrize(("name", "has_place"), [*((name, True) for name in TEMPLATES), ("old", False)])
def test_a_role_stands_where_a_template_has_a_place_for_it(name, has_place, tmp_path):
    """Of those that do, Qwen's has a system text of its own, which goes; the third one takes it for an answer."""
    save_tiny_checkpoint(tmp_path / "model")
    lvlm = load_lvlm(tmp_path / "model")
    if has_place:
        lvlm.processor.chat_template = TEMPLATES[name]
    assert lvlm.family.takes_system(lvlm.processor) == has_place
    assert icd.takes_system(lvlm, "a dog") == has_place
    asked = Asked("describe the cat", "a dog") if has_place else "a dog describe the cat"
    text = render(lvlm.processor, asked, with_image=True)
    assert (
        text
        == {
            "qwen2_5_vl": "system\na dog\nuser\n<image>describe the cat\nassistant\n",
            "chatml_direct": "<|im_start|>system\na dog<|im_end|><|im_start|>user\n<image>\ndescribe the cat<|im_end|>"
            "<|im_start|>assistant\n",
            "vicuna_v1": "a dog USER: <image>\ndescribe the cat ASSISTANT:",
            "llava": "a dog USER: <image>\ndescribe the cat ASSISTANT:",
            "old": "USER: <image> a dog describe the cat ASSISTANT:",
        }[name]
    )
    lvlm.family.encode = lambda processor, images, questions: ([[1]] * len(images), {})  # it writes prompts itself
    assert not icd.takes_system(lvlm, "a dog")


def test_what_cannot_be_is_one_line(lvlm):
    with pytest.raises(NotImplementedError, match="which has answers already"):
        icd.decode(lvlm, lvlm.encode(IMAGES[:1], QUESTIONS[:1], [[40, 41]]), IcdSettings(), N_TOKENS)
    with pytest.raises(ValueError, match="role must be a text, not ''"):
        IcdSettings(role="")
