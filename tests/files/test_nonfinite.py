"""NaN and infinite numbers stop captioning, decoders and attribution, and are traced to their sample and layer."""

import json
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llava_hh.attention.interventions import DeactivateText, ZeroHeads
from llava_hh.attribution.replacement import Zero
from llava_hh.attribution.run import CaptionAttribution
from llava_hh.baselines import greedy
from llava_hh.decoding.generation import answer_samples
from llava_hh.decoding.method import Decoding, Greedy
from llava_hh.files.nonfinite import refuse_infinite, refusing_infinite
from llava_hh.heads import Head
from llava_hh.models.lvlm import Lvlm, load_lvlm
from llava_hh.runs.run import start_run
from llava_hh.scripts import attribute
from tests.support.decoding import preset
from tests.support.seeded import Seeded

SAMPLES = [{"image_id": number} for number in (11, 12, 13)]
IMAGES = [Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)) for seed in range(3)]
PROMPTS = ["describe the dog", "describe a cat", "describe"]
METHODS = {
    "greedy": Greedy(),
    "adhh": Greedy((DeactivateText((Head(0, 1), Head(2, 3)), 0.1),)),
    "removal": Greedy((ZeroHeads((Head(0, 1),)),)),
    "stepping": Decoding("greedy", greedy.decode, greedy.GreedySettings()),
    **{name: preset(name) for name in ("vcd_paper", "dola_repo", "opera", "pai")},
}


@pytest.fixture
def lvlm(tiny_checkpoint) -> Lvlm:
    """One of its own, to be spoilt."""
    return load_lvlm(tiny_checkpoint)


def spoil_token(lvlm: Lvlm, token: int, value: float) -> None:
    with torch.no_grad():
        lvlm.model.get_input_embeddings().weight[token] = value


def said_by_one(answers: list[list[int]], others: Collection[int] = ()) -> tuple[int, int]:
    """Of the last row that has one: a token, not its last, that is in no other row and not among `others`."""
    for row in reversed(range(len(answers))):
        elsewhere = set(others).union(*answers[:row], *answers[row + 1 :])
        if only := [token for token in answers[row][:-1] if token not in elsewhere and token != answers[row][-1]]:
            return row, only[0]
    raise AssertionError("choose other prompts: all tokens are in several answers")


def ask(lvlm: Lvlm, name: str) -> list[list[int]]:
    answers = answer_samples(lvlm, SAMPLES, IMAGES, METHODS[name], PROMPTS, 6).answers
    return [answer.token_ids for answer in answers]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", METHODS)
def test_a_prompt_with_a_spoilt_token_is_named(lvlm, name, value):
    cat = lvlm.tokenizer("cat", add_special_tokens=False).input_ids[0]
    lvlm.model.generation_config.suppress_tokens = [cat]  # so that no other sample's answer comes upon it
    ask(lvlm, name)  # nothing is wrong yet
    spoil_token(lvlm, cat, value)
    with pytest.raises(ValueError, match=r"^sample 12: the input of decoder layer 0 \(.*\) is not finite; NaN or inf"):
        ask(lvlm, name)
    assert not lvlm.model._forward_hooks
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in lvlm.decoder_layers)


@pytest.mark.parametrize("name", ["greedy", "stepping"])
def test_an_answer_that_comes_upon_a_spoilt_token_is_named(lvlm, name):
    """A token that one of the answers says, not as its last, and none of the others does."""
    answers = ask(lvlm, name)
    row, token = said_by_one(answers, {token for prompt in PROMPTS for token in lvlm.tokenizer(prompt).input_ids})
    spoil_token(lvlm, token, torch.nan)
    with pytest.raises(ValueError, match=rf"^sample {SAMPLES[row]['image_id']}: the input of decoder layer 0"):
        ask(lvlm, name)


@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("name", ["greedy", "adhh", "vcd_paper", "opera"])
def test_a_spoilt_weight_is_found_in_its_layer(lvlm, name, layer):
    with torch.no_grad():
        lvlm.decoder_layers[layer].mlp.down_proj.weight[3, 5] = torch.nan
    with pytest.raises(ValueError, match=rf"^sample 11: the output of decoder layer {layer} is not finite"):
        ask(lvlm, name)


def test_a_spoilt_vocabulary_matrix_is_told_apart(lvlm):
    with torch.no_grad():
        lvlm.model.lm_head.weight[30, 2] = torch.inf
    with pytest.raises(ValueError, match=r"^sample 11: what the vocabulary matrix makes of the last decoder layer"):
        ask(lvlm, "greedy")


@pytest.mark.parametrize("name", METHODS)
def test_suppressed_tokens_are_no_infinite_numbers(lvlm, name):
    lvlm.model.generation_config.suppress_tokens = [7, 30, 31]
    assert not {token for ids in ask(lvlm, name) for token in ids} & {7, 30, 31}


def test_one_bad_number_anywhere_in_the_last_row_of_logits_counts():
    class Output:
        def __init__(self, logits: torch.Tensor) -> None:
            self.logits = logits

    class Echo(torch.nn.Module):
        def forward(self, logits: torch.Tensor) -> Output:
            return Output(logits)

    model = Echo()
    logits = torch.randn(3, 2, 50)
    logits[:, 0] = torch.nan  # an earlier position may be padding
    logits[1, 1, 4] = torch.finfo(torch.float32).min  # what Chameleon's forbidden tokens have
    with refusing_infinite(model):
        model(logits)
        for value in (torch.nan, torch.inf, -torch.inf):
            for place in (0, 17, 49):
                spoilt = logits.clone()
                spoilt[2, 1, place] = value
                with pytest.raises(ArithmeticError):
                    model(spoilt)


def test_what_a_second_pass_does_not_show_names_them_all(lvlm):
    with pytest.raises(ValueError, match=r"^sample 4, 5: numbers that are not finite"):
        refuse_infinite(lvlm.model, lvlm.decoder_layers, [(4, lambda: None), (5, lambda: None)])


def test_attribution_stops_at_the_spoilt_caption(lvlm, tiny_results, tiny_coco, tmp_path, capsys):
    """In a model whose layer is spoilt, and where only one caption holds the spoilt token."""
    own = tmp_path / "model"
    captions = Path(shutil.copy(tiny_results / "train2014" / "captions_eval_results.json", tmp_path))  # as of any model
    flags = ["--model", own, "--captions", captions, "--image-folder", tiny_coco / "train2014", "--limit", 4]
    entries = [entry for entry in json.loads(captions.read_text())["sentences"] if entry["metrics"]["CHAIRs"]][:4]
    row, token = said_by_one([entry["token_ids"] for entry in entries])

    def refused(out: str) -> str:
        lvlm.model.save_pretrained(own)
        lvlm.processor.save_pretrained(own)
        with pytest.raises(SystemExit):
            attribute.main([str(flag) for flag in [*flags, "--out", tmp_path / out]])
        return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))

    before = lvlm.model.get_input_embeddings().weight[token].clone()
    spoil_token(lvlm, token, torch.nan)
    line = refused("token")
    assert line.startswith(f"error: sample {entries[row]['image_id']}: the input of decoder layer 0 ")
    with torch.no_grad():
        lvlm.model.get_input_embeddings().weight[token] = before
        lvlm.decoder_layers[1].mlp.down_proj.weight[3, 5] = torch.nan
    line = refused("layer")
    assert line.startswith(f"error: sample {entries[0]['image_id']}: the output of decoder layer 1 is not finite")


def test_attribution_of_a_sound_model_goes_through(tiny_checkpoint, tiny_results, tiny_coco, tmp_path):
    """Heads that are not measured are NaN in its arrays, and no error."""
    captions = json.loads((tiny_results / "train2014" / "captions_eval_results.json").read_text())["sentences"]
    entries = [entry for entry in captions if entry["metrics"]["CHAIRs"]][:1]
    attribution = CaptionAttribution(
        tiny_checkpoint, tiny_coco / "train2014", released=False, max_rows=64, batch_size=1
    )
    with start_run(tmp_path, Seeded()) as run:
        attribution.run_blocks(entries, Zero(), run, heads=[Head(0, 1)])
        arrays = next(run.finished_arrays())
    assert np.isnan(arrays["heads"]).sum() == arrays["heads"].size - len(arrays["clean"])
