"""First contact: a tiny model behind LLaVA-1.5-7B's own tokenizer, and verdicts on numbers that are made up."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from llava_hh.doctor.contact import AGREES, DIFFERS, OPEN, find_captions
from llava_hh.heads import PUBLISHED
from llava_hh.scripts.contact import main
from tests.support.examined import set_setting, write_profile
from tests.support.real import real
from tests.support.tiny_checkpoint import save_tiny_checkpoint, write_tiny_coco

FILES = ("tokenizer.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
FILES += ("special_tokens_map.json", "chat_template.json", "generation_config.json")
OBJECTS = ["▁person", "▁car", "▁dog", "▁cat", "▁boat", "▁bed", "▁horse", "▁train", "▁book", "▁bus"]


def save_tiny_7b(folder: Path) -> None:
    """As many layers, heads, words and patches as LLaVA-1.5-7B has, and 2 numbers a head; it names objects alone."""
    source = real("llava-1.5-7b-hf", *FILES)
    folder.mkdir()
    for name in FILES:
        shutil.copy(source / name, folder)
    torch.manual_seed(3)
    text = LlamaConfig(
        vocab_size=32064, hidden_size=64, intermediate_size=64, num_hidden_layers=32, num_attention_heads=32
    )
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**sizes, image_size=336, patch_size=14, projection_dim=16)
    parts = {"vision_config": vision, "text_config": text, "image_token_id": 32000, "image_seq_length": 576}
    model = LlavaForConditionalGeneration(LlavaConfig(**parts, vision_feature_layer=-2))
    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    spoken = torch.zeros(32064, 1)
    spoken[[vocabulary[word] for word in OBJECTS]] = 3
    with torch.no_grad():
        model.lm_head.weight *= spoken
    model.save_pretrained(folder)
    shutil.copy(source / "generation_config.json", folder)


def patient(folder: Path) -> Path:
    write_tiny_coco(folder / "coco", 5)
    write_profile(folder)
    for name, value in {"max_new_tokens": 6, "batch_size": 2, "report_images": 3, "draw_seed": 42}.items():
        set_setting(folder, name, value)
    return folder / "results/tiny/contact/val2014-3-seed42/contact.md"


def findings(text: str) -> dict[str, list[str]]:
    """Known, found and verdict of the table's rows by what they are of."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows if len(row) == 4}


def test_the_real_tokenizer_agrees(tmp_path, capsys):
    save_tiny_7b(tmp_path / "model")
    page = patient(tmp_path)
    main(["--profile", f"{tmp_path}/profile.sh", "--images", "3"])
    printed, text = capsys.readouterr().out, page.read_text()
    assert text.rstrip() in printed and text.startswith(
        f"````text\nFirst contact: {tmp_path.name}, 3 images of val2014 (seed 42)"
    )
    assert text.rstrip().endswith("\n````") and text.count("````") == 2
    found = findings(text)
    assert found["tokens before, of and after the image"] == ["35 + 576 + 14", "35 + 576 + 14", AGREES]
    assert found["ids of the text"] == ["LLaVA's own", "the same", AGREES]
    assert found["greedy decoding, CHAIR_i"][0] == "13.2 %" and found["figure 6a at factor 0, CHAIR_i"][0] == "8.4 %"
    methods = json.loads((page.parent / "summary.json").read_text())["methods"]
    kinds = {entry["kind"]: entry for entry in methods.values()}
    shown = f"{100 * kinds['greedy']['CHAIRi']:.1f} ("
    assert found["greedy decoding, CHAIR_i"][1].startswith(shown)
    published = json.loads((PUBLISHED / "llava-v1.5-7b.json").read_text())["hal_heads"]
    settings = json.loads((page.parent / kinds["adhh"]["folder"] / "run.json").read_text())["settings"]
    assert settings["interventions"][0]["heads"] == published[:2]  # top_k of this profile
    for line in ("packages ", "token layout ", "image: 576 times 32000", "made by:", "torch 2", "greedy, "):
        assert line in text, line
    captions = re.findall(r"^  (\d+): (.*)$", text, re.MULTILINE)
    assert len(captions) == 6 and all(said for _, said in captions)


def test_another_prompt_differs_and_says_where(tmp_path, capsys, monkeypatch):
    save_tiny_checkpoint(tmp_path / "model")
    page = patient(tmp_path)
    (tmp_path / "lists").mkdir()
    shape = {"model_type": "llava", "n_layers": 4, "n_heads": 4}
    heads = tmp_path / "lists/other.json"
    heads.write_text(json.dumps({"hal_heads": [[1, 2], [0, 3]], **shape}))
    monkeypatch.setattr("llava_hh.heads.PUBLISHED", heads.parent)
    asked = ["--profile", f"{tmp_path}/profile.sh", "--images", "3"]
    with pytest.raises(SystemExit):
        main(asked)
    assert "what is known here is of llava-v1.5-7b, and this model has the heads of other" in capsys.readouterr().err
    heads.rename(heads.with_name("llava-v1.5-7b.json"))
    main(asked)
    found = findings(page.read_text())
    assert found["tokens before, of and after the image"][1:] == ["1 + 4 + 7", DIFFERS]
    assert found["ids of the text"][1].startswith("before the image ") and found["ids of the text"][2] == DIFFERS


def test_nothing_is_captioned_before_doctor_is_content(tmp_path, capsys):
    save_tiny_checkpoint(tmp_path / "model")
    page = patient(tmp_path)
    (tmp_path / "coco/annotations/captions_val2014.json").unlink()
    with pytest.raises(SystemExit) as stopped:
        main(["--profile", f"{tmp_path}/profile.sh", "--images", "3"])
    said = capsys.readouterr()
    assert stopped.value.code == 1 and said.err == "error: mend first what FAIL stands beside; nothing was captioned\n"
    assert "annotations   FAIL" in said.out and not page.parent.exists()


def methods_with(near: tuple, difference: tuple) -> dict:
    greedy = {"kind": "greedy", "CHAIRi": 0.1, "interval": {"CHAIRi": near}, "n": 20}
    tested = {"CHAIRi": {"difference": -0.01, "interval": {"difference": difference}}}
    others = {kind: greedy | {"kind": kind, "minus_greedy": tested} for kind in ("scale", "adhh")}
    return {"greedy": greedy, **others}


@pytest.mark.parametrize(
    ("near", "difference", "verdicts"),
    [
        ((0.08, 0.14), (-0.05, -0.01), [AGREES, AGREES, AGREES, AGREES]),
        ((0.09, 0.13), (-0.05, 0.01), [DIFFERS, DIFFERS, OPEN, OPEN]),
        ((0.1, 0.132), (0.01, 0.02), [AGREES, DIFFERS, DIFFERS, DIFFERS]),
        ((0.0, 0.0), (0.0, 0.0), [OPEN, OPEN, OPEN, OPEN]),
    ],
)
def test_verdicts_go_by_the_interval(near, difference, verdicts):
    found = find_captions(methods_with(near, difference))
    assert [finding.verdict for finding in found] == verdicts
    assert found[0].found == f"10.0 ({100 * near[0]:.1f} to {100 * near[1]:.1f}) %, n = 20"
