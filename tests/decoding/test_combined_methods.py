"""Methods that are prepared for a batch, under decoders that copy rows, and in yes-or-no questions."""

import json

import pytest

from llava_hh.baselines import halc
from llava_hh.decoding.making import Material
from llava_hh.decoding.method import CannotDecode, Edits
from llava_hh.decoding.reading import method_of, read_methods
from llava_hh.decoding.yes_no import collecting_yes_shares
from llava_hh.experiments.chair import CaptionTask
from llava_hh.models.lvlm import load_lvlm
from llava_hh.scripts import evaluate
from tests.support.questions import IMAGES, QUESTIONS
from tests.support.tiny_checkpoint import save_polled_checkpoint

NOTHING = {  # decoders that are greedy decoding with these settings, in two branches a row
    "vcd": "vcd_paper:alpha=0,beta=1,do_sample=false",
    "pai": "pai:alpha=0,gamma=1.000001,beta=1",
    "icd": "icd:alpha=0,beta=1",
    "m3id": "m3id_paper:decay=0",
    "memvr": 'memvr:ratio=0,layers="[1,2]"',
    "sid": "sid:alpha=0",
    "avisc": "avisc:alpha=0,do_sample=false",
    "damro": "damro:alpha=0,do_sample=false",
    "only": "only:agree=0,differ=0,do_sample=false",
    "deco": 'deco:alpha=0,layers="[1,2]"',
    "vista": "vista:strength=0,mix=0",
    "vista's passes": "vista:strength=1e-12,mix=0",
    "agla": "agla_self:alpha=0,do_sample=false",
    "agla's picture": "agla_self:kept=1,do_sample=false",
    "dola": 'dola_repo:relative_top=1,candidate_layers="[0]"',
}
EDITS = ["vhr:alpha=3", "ilvad:jump=1.1", "eah_repo:threshold=0.001"]
EDITS.append("var:kept=0,tau=24,most_sunk=0.9,least_mass=0.02,layers=1-2")


@pytest.fixture(scope="module")
def lvlm(tiny_checkpoint):
    return load_lvlm(tiny_checkpoint)


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("decoder", NOTHING.values(), ids=NOTHING)
def test_under_a_decoder_that_does_nothing(lvlm, decoder, edit):
    batch, material = lvlm.encode(IMAGES, QUESTIONS), Material(lvlm)
    if decoder.startswith("icd") and edit.startswith(("vhr", "ilvad")):
        with pytest.raises(CannotDecode, match="made for their first batch"):
            method_of(f"{decoder}+{edit}", material).method.answer(lvlm, batch, 6)
        return
    alone, combined = (method_of(text, material).method for text in (edit, f"{decoder}+{edit}"))
    assert combined.answer(lvlm, batch, 6).answers == alone.answer(lvlm, batch, 6).answers


def test_halc_refuses_what_is_made_for_a_batch(lvlm):
    batch = lvlm.encode(IMAGES, QUESTIONS)
    edits = Edits.for_batch(method_of("vhr", Material(lvlm)).method.interventions, lvlm, batch)
    with pytest.raises(CannotDecode, match="made for one batch"):
        halc.decode(lvlm, batch, halc.PRESETS["halc_clean"], 6, edits)


@pytest.mark.parametrize("text", ["vhr:alpha=1", "ilvad:alpha=0,beta=1"])
def test_passes_before_an_answer_say_no_yes(tiny_checkpoint, tmp_path, text):
    save_polled_checkpoint(tiny_checkpoint, tmp_path / "polled")
    lvlm = load_lvlm(tmp_path / "polled")
    batch, found = lvlm.encode(IMAGES, QUESTIONS), []
    for each in ("greedy", text):
        with collecting_yes_shares(lvlm, shares := []):
            method_of(each, Material(lvlm)).method.answer(lvlm, batch, 3)
        found.append(shares)
    assert len(found[0]) == len(IMAGES) and found[1] == pytest.approx(found[0], abs=1e-5)


@pytest.mark.parametrize("text", ["var:tau=24,most_sunk=0.9,least_mass=0.02,layers=1-2", "ilvad:jump=1.1", "eah_repo"])
def test_a_prompt_in_chunks_is_refused_or_the_same(lvlm, text):
    batch = lvlm.encode(IMAGES, QUESTIONS)
    edits = Edits.for_batch(method_of(text, Material(lvlm)).method.interventions, lvlm, batch)
    whole = method_of(text, Material(lvlm)).method.answer(lvlm, batch, 6)

    def in_chunks():
        with edits.open(lvlm.model, batch.image_mask):
            return lvlm.model.generate(**batch.inputs, max_new_tokens=6, do_sample=False, prefill_chunk_size=4)

    if "var" not in text:
        with pytest.raises(NotImplementedError, match="the whole prompt in one forward|token by token"):
            in_chunks()
        return
    assert [answer.token_ids for answer in whole.answers] == in_chunks()[:, batch.image_mask.shape[1] :].tolist()


def test_all_names_what_cannot_be(tiny_checkpoint, tiny_coco, tmp_path, capsys):
    asked = ["--model", tiny_checkpoint, "--annotations", tiny_coco / "annotations", "--split", "val2014"]
    asked += ["--image-folder", tiny_coco / "val2014", "--limit", 2, "--max-new-tokens", 2, "--out", tmp_path]
    asked += ["--methods", "all", "opera:limit=1", 'deco:layers="[1,2]"', "var:layers=1-2,tau=99"]
    evaluate.main([*map(str, asked)])
    summary = json.loads((tmp_path / "summary.json").read_text())
    left_out, methods = summary["settings"]["left_out"], summary["methods"]
    assert {*left_out} == {"AD-HH", "HALC", "VAF", "VISTA", "AllPath", "VTI"}
    assert left_out["AD-HH"] == "needs heads=FILE, or --heads" and "none of this model's 4" in left_out["VAF"]
    greedy = [row["text"] for row in rows_of(tmp_path / "greedy/captions.jsonl")]
    for entry in methods.values():
        if "folder" in entry and entry["folder"] != "greedy":
            texts = [row["text"] for row in rows_of(tmp_path / entry["folder"] / "captions.jsonl")]
            assert entry["same_as_greedy"] == sum(map(str.__eq__, texts, greedy))
    assert next(entry for entry in methods.values() if entry.get("label") == "VAR")["same_as_greedy"] == 2
    note = (tmp_path / "summary.md").read_text().splitlines()[-1]
    assert "No head fired on these images under: VAR." in note and "AD-HH (needs heads=FILE" in note
    with pytest.raises(SystemExit):
        evaluate.main([*map(str, asked[:-3]), "--choose"])
    assert "no adhh on all images among --methods" in capsys.readouterr().err


def test_all_goes_on_where_a_method_stops_on_its_way(tiny_checkpoint, tiny_coco, tmp_path, monkeypatch, capsys):
    """As one does whose answer grows beyond a sliding window."""
    monkeypatch.setattr("llava_hh.decoding.registry.ONE_OF_EACH", {"spin": "spin", "devils": "devils"})
    monkeypatch.setattr("llava_hh.decoding.reading.ONE_OF_EACH", {"spin": "spin", "devils": "devils"})

    def run(self, evaluation, method, out, real=CaptionTask.run):
        if method.kind == "devils":
            raise NotImplementedError("layer 3 slides over 20 keys")
        return real(self, evaluation, method, out)

    monkeypatch.setattr(CaptionTask, "run", run)
    asked = ["--model", tiny_checkpoint, "--annotations", tiny_coco / "annotations", "--split", "val2014"]
    asked += ["--image-folder", tiny_coco / "val2014", "--limit", 2, "--max-new-tokens", 2]
    evaluate.main([*map(str, [*asked, "--out", tmp_path / "all", "--methods", "all"])])
    summary = json.loads((tmp_path / "all/summary.json").read_text())
    assert summary["settings"]["left_out"] == {"Devils": "layer 3 slides over 20 keys"}
    assert {entry["label"] for entry in summary["methods"].values()} == {"greedy", "SPIN"}
    with pytest.raises(SystemExit):
        evaluate.main([*map(str, [*asked, "--out", tmp_path / "one", "--methods", "devils"])])
    assert "method 'devils': layer 3 slides over 20 keys" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["all:limit=2", "all+vhr", "vhr+all"])
def test_all_stands_alone(text):
    with pytest.raises(ValueError, match="`all` stands alone"):
        read_methods([text])


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
