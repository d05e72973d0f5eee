"""Methods that edit whole layers: Devils, VAF and SPIN, from their text to their answers."""

import json

import pytest
import torch

from llava_hh.attention.hooks import intervene, is_edited
from llava_hh.attention.interventions import BoostImageScores, DeactivateText
from llava_hh.attention.layer_edits import AddConsensus, ScaleScores, SuppressBlindHeads
from llava_hh.attention.modules import attention_modules
from llava_hh.attention.sinks import RecycleSinks, ShareDensestMap
from llava_hh.baselines.ilvad import AmplifyEvidence
from llava_hh.baselines.vhr import ReinforceVisionHeads
from llava_hh.decoding.groups import make_members
from llava_hh.decoding.head_lists import AnyDepth, heads_of_layers
from llava_hh.decoding.making import Material
from llava_hh.decoding.reading import method_of, read_methods
from llava_hh.experiments.shown import in_words
from llava_hh.heads import Head
from llava_hh.models.lvlm import load_lvlm
from llava_hh.scripts import evaluate
from tests.support.questions import IMAGES, QUESTIONS, SHOWN
from tests.support.tiny import decode_steps, llava_batch, tiny_llava
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.tiny_newer import save_tiny_family

STRONG = {  # greedy decoding, and so much that it bites
    "devils": ("devils:alpha=0", "devils:alpha=4"),
    "vaf": ("vaf:layers=1-2,image=1,before=1", "vaf:layers=1-2,image=4,before=0.1"),
    "spin": ("spin:kept=1", "spin:kept=0.5,factor=0"),
    "spin by attention": ("spin:factor=1", "spin:kept=0.25,factor=0,rank_by=attention"),
    "vhr": ("vhr:alpha=1", "vhr:alpha=3"),
    "eah of a layer": ("eah_paper:threshold=9", "eah_paper:threshold=0.0015,layers=1-2"),
    "eah": ("eah_repo:threshold=9", "eah_repo:threshold=0.001"),
    "var": ("var:kept=1,layers=1-2", "var:kept=0,tau=24,most_sunk=0.9,least_mass=0.02,layers=1-2"),
    "ilvad": ("ilvad:alpha=0,beta=1", "ilvad"),
    "ilvad for pope": ("ilvad_pope:alpha=0", "ilvad_pope:jump=1.1"),
    "allpath": ("allpath:low=1,high=1,LISTS", "allpath:LISTS"),
}


@pytest.fixture(scope="module", params=["gqa llava", "mha llava", "qwen2_5_vl", "mllama"])
def lvlm(request, tiny_checkpoint, tmp_path_factory):
    if request.param == "gqa llava":
        return load_lvlm(tiny_checkpoint)
    if request.param == "mha llava":
        save_tiny_checkpoint(folder := tmp_path_factory.mktemp("heads") / "tiny", n_kv=4)
        return load_lvlm(folder)
    save_tiny_family(request.param, folder := tmp_path_factory.mktemp("family") / request.param)
    return load_lvlm(folder)


@pytest.fixture(scope="module")
def allpath(tmp_path_factory):
    """The fields of a file of its own."""
    lists = {"highest": [[1, 0], [2, 3], [0, 1]], "lowest": [[2, 1], [1, 2], [2, 0]]}
    path = tmp_path_factory.mktemp("lists") / "allpath.json"
    path.write_text(json.dumps({"chair": {"text": lists, "image": {"highest": [[2, 3]], "lowest": []}}}))
    return f'n_low=192,n_high=128,n_image=64,heads="{path}"'


def layers(first, last):
    return tuple(Head(layer, head) for layer in range(first, last + 1) for head in range(4))


def test_texts_become_edits_of_scaled_layers(tiny_checkpoint):
    material = Material(load_lvlm(tiny_checkpoint))  # 4 layers of 4 heads; no head list is needed
    for text, expected in {
        "devils": AddConsensus(layers(1, 2), 0.5),
        "devils:layers=0-3,alpha=0.2": AddConsensus(layers(0, 3), 0.2),
        "vaf:layers=2": ScaleScores(layers(2, 2), 1.15, 0.95),
        "vaf_unsigned:layers=2,image=1.3": ScaleScores(layers(2, 2), 1.3, 0.95, signed=False),
        "spin": SuppressBlindHeads(layers(0, 3), 0.95, 0.08),
        "spin_pope:rank_by=attention": SuppressBlindHeads(layers(0, 3), 0.8, 0.1, "attention"),
        "vhr": ReinforceVisionHeads(layers(1, 1) + layers(3, 3), 2.0),
        'vhr:layers="0,2-3",alpha=3': ReinforceVisionHeads(layers(0, 0) + layers(2, 3), 3),
        "eah_paper": ShareDensestMap(layers(1, 1), 0.002),
        "eah_repo": ShareDensestMap(layers(0, 3), 0.0008),
        "ilvad": AmplifyEvidence(layers(1, 3), 5.0, 0.3),
        "ilvad_pope": AmplifyEvidence(layers(0, 3), 5.0, 1.0),
        "var": RecycleSinks(layers(2, 2)),
        'var:dimensions="3,17",layers=1': RecycleSinks(layers(1, 1), dimensions=(3, 17)),
        "var:dimensions=5": RecycleSinks(layers(2, 2), dimensions=(5,)),
    }.items():
        assert method_of(text, material).method.interventions == (expected,), text
    both = method_of("vcd_paper+devils:alpha=0.3", material).method
    assert both.interventions == (AddConsensus(layers(1, 2), 0.3),) and both.kind == "vcd_paper"
    three = method_of("spin:kept=0.5+devils+adhh:heads=L3H1", material).method
    assert [type(edit) for edit in three.interventions] == [SuppressBlindHeads, AddConsensus, DeactivateText]
    assert method_of("devils", material).method.name.startswith("devils-layers=1-2-alpha=0.5-")


@pytest.mark.parametrize(
    ("n_layers", "named", "expected"),
    [
        (32, (5, 18), (5, 18)),
        (40, (5, 18), (7, 22)),
        (30, (9, 14), (9, 13)),
        (4, (5, 18), (1, 2)),
        (60, (0, 31), (0, 59)),
        (40, (18, 31), (23, 39)),
        (30, AnyDepth(1, 1), (1, 1)),
        (30, AnyDepth(2, -2), (2, 28)),
    ],
)
def test_layers_of_other_depths(n_layers, named, expected):
    class Deep:
        n_heads = 2

    Deep.n_layers = n_layers
    found = sorted({head.layer for head in heads_of_layers(Deep, [named])})
    assert (found[0], found[-1]) == expected and len(found) == expected[1] - expected[0] + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vaf", "layers 9 to 14 of 32 are none of this model's 4; name some, as layers=1-2"),
        ("devils:layers=3-4", "layers is '3-4'; expected the first, then the last of 0 to 3"),
        ("devils:layers=2-1", "layers is '2-1'; expected the first, then the last of 0 to 3"),
        ("devils:layers=first", "layers is 'first'; expected a layer or a range, as 5-18"),
        ("devils:top_k=3", "no field of devils 'top_k'"),
        ("devils:alpha=-1", "alpha must be a finite number of at least 0"),
        ("spin:kept=1.5", r"kept must lie in \[0, 1\]"),
        ("spin:rank_by=size", "rank_by must be 'scores' or 'attention'"),
        ("vhr:layers=1+2", "expected kind:field=value,... such as adhh:top_k=20,threshold=0.4, not '2'"),
        ('vhr:layers="1,9"', "layers is '1,9'; expected the first, then the last of 0 to 3"),
        ("var:kept=2", r"kept must lie in \[0, 1\]"),
        ("var:dimensions=x", "': dimensions are numbers, as \"1415,2533\", not 'x'"),
        ("var:dimensions=-1", "': dimensions are numbers, as \"1415,2533\", not '-1'"),
        ("ilvad:beta=-1", "beta must be a finite number of at least 0"),
        ("eah_paper:threshold=inf", "': threshold is 'inf'; expected a number"),
        ("allpath", "no heads are published for a llava of 4 layers"),
        ('allpath:n_low=1.5,heads="LISTS"', "': the number of lowest heads .text. is 1.5; expected a whole number"),
        ('allpath:n_low=999,heads="LISTS"', "chair, text, lowest has 1 heads, fewer than 16"),
        (
            'allpath:n_low=64,n_high=64,heads="LISTS"',
            "chair has no ranking 'image' with its highest heads; leave it out by",
        ),
        (
            'allpath:task=pope,heads="LISTS"',
            "no rankings of AllPath for 'pope'; llava-hh attribute --allpath finds some",
        ),
        ("random:of=all", "of=all is no method; name one"),
        ("random:of=allpath", "allpath has no list of heads to draw others for"),
        ("random:of=devils", "devils has no list of heads to draw others for"),
    ],
)
def test_what_cannot_be_is_one_line(text, message, tiny_checkpoint, tmp_path):
    material = Material(load_lvlm(tiny_checkpoint))
    lists = {"chair": {"text": {"highest": [[1, 0]], "lowest": [[2, 1]]}}}
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    text = text.replace("LISTS", f"{tmp_path}/lists.json")
    with pytest.raises(ValueError, match=message):
        make_members(read_methods([text]), material)


@pytest.mark.parametrize("name", STRONG)
def test_nothing_is_greedy_much_bites_and_a_batch_equals_its_rows(lvlm, name, allpath):
    material = Material(lvlm)
    nothing, much = (method_of(text.replace("LISTS", allpath), material).method for text in STRONG[name])
    is_mllama = lvlm.model.config.model_type == "mllama"
    images = SHOWN if is_mllama else IMAGES
    batch = lvlm.encode(images, QUESTIONS[: len(images)])
    if is_mllama and name != "allpath":
        with pytest.raises(NotImplementedError, match="no image tokens among the keys"):
            much.answer(lvlm, batch, 6)
        return
    greedy = method_of("greedy", Material(lvlm)).method.answer(lvlm, batch, 6)
    assert nothing.answer(lvlm, batch, 6).answers == greedy.answers
    found = much.answer(lvlm, batch, 6)
    assert found.answers != greedy.answers
    alone = [lvlm.encode([image], [question]) for image, question in zip(images, QUESTIONS, strict=False)]
    assert [much.answer(lvlm, own, 6).answers[0] for own in alone] == found.answers
    if "spin" in name:
        fired = {head: count.fired / count.decided for head, count in found.fired.items()}
        share = 1 - int(much.interventions[0].kept * lvlm.n_heads) / lvlm.n_heads
        assert sum(fired.values()) / len(fired) == pytest.approx(share)
    assert not is_edited(lvlm.model)
    assert method_of("greedy", Material(lvlm)).method.answer(lvlm, batch, 6).answers == greedy.answers


@torch.no_grad()
def test_consensus_of_equal_heads_is_their_own_boost():
    """Where all heads of a layer have the same queries and keys, Devils is PAI's boost."""
    model, batch = tiny_llava(), llava_batch([[3, "image", 6], ["image", 2, 4]], seed=1)
    for module in attention_modules(model).values():
        for projection in (module.q_proj, module.k_proj):
            first = projection.weight[:8].clone()
            projection.weight.copy_(first.repeat(4, 1))
    heads = layers(1, 2)
    with intervene(model, batch.image_mask, [AddConsensus(heads, 0.8)]):
        consensus = decode_steps(model, batch, 4)
    with intervene(model, batch.image_mask, [BoostImageScores(heads, 0.8)]):
        boosted = decode_steps(model, batch, 4, tokens=consensus.argmax(-1))
    torch.testing.assert_close(consensus, boosted, atol=1e-5, rtol=0)
    plain = decode_steps(model, batch, 4, tokens=consensus.argmax(-1))
    assert (consensus - plain).abs().max() > 0.01


def test_evaluated_with_others(tiny_checkpoint, tiny_coco, tmp_path, capsys):
    asked = ["--model", tiny_checkpoint, "--annotations", tiny_coco / "annotations", "--split", "val2014"]
    asked += ["--image-folder", tiny_coco / "val2014", "--limit", 4, "--max-new-tokens", 6, "--out", tmp_path]
    methods = ["devils:alpha=3", "vaf:layers=1-2,image=3", "spin:kept=0.5", "vcd_paper+spin:kept=0.5"]
    evaluate.main([*map(str, asked), "--methods", *methods])
    summary = json.loads((tmp_path / "summary.json").read_text())
    labels = [method["label"] for method in summary["methods"].values()]
    assert labels == ["greedy", "Devils", "VAF", "SPIN", "VCD + SPIN"]
    spin = next(method for method in summary["methods"].values() if method["label"] == "SPIN")
    assert 0.4 < sum(own["rate"] for own in spin["fired"].values()) / len(spin["fired"]) < 0.6
    described = json.loads(next(tmp_path.glob("spin-*/run.json")).read_text())["settings"]["interventions"]
    assert described[0]["kind"] == "SuppressBlindHeads" and described[0]["kept"] == 0.5
    printed = capsys.readouterr().out
    assert "fired, SPIN: L0H0 " in printed
    many = {str(head): {"rate": (head.layer + head.head) / 10} for head in layers(0, 12)}
    assert in_words(many) == "52 heads, 75.0% in the mean, 0.0% to 150.0%"
