"""Conversations for training under chat templates that trim what was said, as Gemma's does."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from llava_hh.models.lvlm import Lvlm, load_lvlm
from tests.support.tiny_checkpoint import CHAT
from tests.support.tiny_newer import save_tiny_family

SAID = "{{ part['text'] }}"


def with_template(folder: Path, said: str) -> Lvlm:
    save_tiny_family("gemma3", folder)
    template = "<s>" + CHAT.replace("<image>", "<start_of_image>").replace(SAID, said)
    (folder / "chat_template.jinja").write_text(template)
    return load_lvlm(folder)


def encoded(lvlm: Lvlm, *turns: tuple[str, str]) -> tuple[torch.Tensor, torch.Tensor]:
    batch, labels = lvlm.encode_conversations([Image.new("RGB", (16, 16))], [list(turns)], 512, ["row 7"])
    return batch.inputs["input_ids"], labels


@pytest.mark.parametrize(("before", "after"), [(" ", ""), ("", " "), ("\n", " \n"), ("", "")])
def test_a_template_that_trims_gets_trimmed_answers(before, after, tmp_path):
    lvlm = with_template(tmp_path, "{{ part['text'] | trim }}")
    turns = [("a cat", "a dog"), ("the", "a fork"), ("and", "a car and a dog")]
    for count in (1, 2, 3):
        blank = [(question, f"{before}{answer}{after}") for question, answer in turns[:count]]
        for found, expected in zip(encoded(lvlm, *blank), encoded(lvlm, *turns[:count]), strict=True):
            assert torch.equal(found, expected)
    ids, labels = encoded(lvlm, *turns[:2])
    assert lvlm.tokenizer.decode(ids[0, labels[0] >= 0]) == "a dog </s> a fork </s>"


def test_a_template_that_keeps_blanks_gets_them(tmp_path):
    """Tokenizers that split at blanks alone show no difference, so the answer is looked at where it is tokenised."""
    lvlm = with_template(tmp_path, SAID)
    seen = []
    tokenize = lvlm.tokenizer._encode_plus
    lvlm.tokenizer._encode_plus = lambda text, **options: seen.append(text) or tokenize(text, **options)
    encoded(lvlm, ("a cat", " a dog "))
    assert " a dog " in seen and "a dog" not in seen


def test_a_template_that_changes_answers_is_an_error_of_the_sample(tmp_path):
    lvlm = with_template(tmp_path, "{{ part['text'] | upper }}")
    with pytest.raises(ValueError, match=r"sample row 7: the chat template of .* changes what was answered"):
        encoded(lvlm, ("a cat", " a dog"))
