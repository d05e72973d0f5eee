"""From the text of a method to the method: kinds, fields, heads, groups, folders; what cannot be is one line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llava_hh.attention.interventions import BoostImageScores, DeactivateText, ScaleAttention, ZeroHeads
from llava_hh.baselines.vcd import VCD_PAPER
from llava_hh.decoding.groups import make_members
from llava_hh.decoding.making import Material
from llava_hh.decoding.making import make as make_member
from llava_hh.decoding.reading import method_of as make
from llava_hh.decoding.reading import read_methods
from llava_hh.decoding.registry import DECODERS, fields_of, known_kinds
from llava_hh.experiments.choice import see_choosable
from llava_hh.experiments.evaluate import with_own_labels
from llava_hh.heads import Head
from llava_hh.models.lvlm import load_lvlm

LISTED = {"hal_heads": [[3, 1], [0, 2], [2, 2]], "non_hal_heads": [[1, 0], [2, 1], [3, 3]]}


@pytest.fixture(scope="module")
def lvlm(tiny_checkpoint):
    return load_lvlm(tiny_checkpoint)


@pytest.fixture
def material(lvlm, tmp_path):
    (tmp_path / "heads.json").write_text(json.dumps(LISTED))
    return Material(lvlm, tmp_path / "heads.json")


def test_interventions_of_their_kinds(material):
    heads = (Head(3, 1), Head(0, 2))
    expected = {
        "adhh:top_k=2,threshold=0.3": DeactivateText(heads, 0.3),
        "adhh:heads=L3H1": DeactivateText(heads[:1], 0.4),
        'adhh:heads="L3H1, L0H2"': DeactivateText(heads, 0.4),
        "removal:top_k=2": ZeroHeads(heads),
        "removal:top_k=1,list=non_hal_heads": ZeroHeads((Head(1, 0),)),
        "scale:top_k=2,alpha=0.5": ScaleAttention(heads, 0.5),
        "scale:top_k=2,alpha=1.5,span=image": ScaleAttention(heads, 1.5, "image"),
        "boost:top_k=2,alpha=0.2": BoostImageScores(heads, 0.2),
    }
    for text, intervention in expected.items():
        method = make(text, material).method
        assert method.interventions == (intervention,), text
    assert make("removal:top_k=1+adhh:top_k=2", material).method.interventions == (
        ZeroHeads(heads[:1]),
        DeactivateText(heads, 0.4),
    )


def test_decoders_take_their_settings(material):
    method = make("vcd_paper:alpha=0.5,seed=7+adhh:top_k=1,on=clean", material).method
    assert method.settings == type(VCD_PAPER)(alpha=0.5, seed=7) and method.on == "clean"
    assert method.interventions == (DeactivateText((Head(3, 1),), 0.4),)
    described = method.describe()
    assert described["decoder"]["alpha"] == 0.5 and described["decoder"]["interventions_on"] == "clean"
    assert {"vcd_paper", "opera", "halc_clean", "removal_released", "tfhh"} < {*known_kinds()}
    for kind in DECODERS:
        assert {"label", "limit"} < {*fields_of(kind)}


def test_a_folder_is_named_by_what_decides_its_captions(material, lvlm, tmp_path):
    name = make("adhh:top_k=2", material).method.name
    assert name.startswith("adhh-top_k=2-threshold=0.4-")
    (tmp_path / "same.json").write_text(json.dumps({"hal_heads": LISTED["hal_heads"][:2], "note": 1}))
    assert make(f'adhh:top_k=2,heads="{tmp_path}/same.json",label=x', material).method.name == name
    (tmp_path / "other.json").write_text(json.dumps({"hal_heads": LISTED["hal_heads"][::-1]}))
    others = [f'adhh:top_k=2,heads="{tmp_path}/other.json"', "adhh:top_k=2,threshold=0.5", "adhh:top_k=1", "removal"]
    others[-1] = "removal:top_k=2"
    names = {make(text, material).method.name for text in others}
    assert len(names) == 4 and name not in names


def test_random_heads_are_a_group(material):
    specs = read_methods(["adhh:top_k=2,threshold=0.3", "random:draws=3,of=adhh"])
    members = make_members(specs, material)
    assert [member.method.kind for member in members] == ["greedy", "adhh", *["random"] * 3]
    drawn = members[2:]
    assert {member.group for member in drawn} == {"random heads"}
    chosen = {Head(3, 1), Head(0, 2)}
    for member in drawn:
        (edit,) = member.method.interventions
        assert edit.threshold == 0.3 and len(edit.heads) == 2 and not chosen & set(edit.heads)
    assert len({member.method.interventions for member in drawn}) > 1
    assert members[2:] == make_members(specs, material)[2:]
    several = ["adhh:top_k=2", "removal:top_k=2", "random:of=adhh", "random:of=removal", 'random:of="removal:top_k=1"']
    groups = {member.group for member in make_members(read_methods(several), material)[3:]}
    assert groups == {"random heads (adhh:top_k=2)", "random heads (removal:top_k=2)", "random heads (removal:top_k=1)"}


def test_seeds_of_a_decoder_that_draws(material):
    members = make_members(read_methods(["vcd_paper:alpha=0.5", "seeds:n=3,of=vcd_paper"]), material)
    assert [member.method.settings.seed for member in members[1:]] == [42, 43, 44, 45]
    assert {member.method.settings.alpha for member in members[1:]} == {0.5}
    assert [member.group for member in members[1:]] == [None, *["VCD, other seeds"] * 3]
    with pytest.raises(ValueError, match="pai draws nothing"):
        make_members(read_methods(["seeds:of=pai"]), material)


def test_the_choice_of_a_setting_is_taken(material, tmp_path):
    (tmp_path / "choice.json").write_text(json.dumps({"chosen": {"top_k": 3, "threshold": 0.7}}))
    (edit,) = make(f"adhh:choice={tmp_path}/choice.json", material).method.interventions
    assert (len(edit.heads), edit.threshold) == (3, 0.7)
    (tmp_path / "choice.json").write_text(json.dumps({"chosen": None}))
    with pytest.raises(ValueError, match="no setting did better"):
        make(f"adhh:choice={tmp_path}/choice.json", material)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["adhh:top_k=4"], "has 3 heads, 4 were asked for"),
        (["adhh:top_k=0"], "top_k is 0; expected a whole number of at least 1"),
        (["adhh:top_k=2,threshold=2"], "threshold must lie in"),
        (["adhh:top_k=2,threshold=x"], "threshold=x"),
        (["scale"], "needs alpha="),
        (["adhh:top_k=2", 'adhh:top_k=2,label="same again"'], "are the same; leave one out"),
        (["adhh:heads=L9H9"], "no head L9H9"),
        (["adhh:top_k=2", "adhh:top_k=1", "random:of=adhh"], "2 methods are adhh; write the one that is meant"),
        (["random:of=greedy"], "greedy has no list of heads to draw others for"),
        (["random:of=pai"], "pai has no list of heads to draw others for"),
        (["random:of=adhh,draws=x"], "draws is 'x'"),
        (["random:of=adhh:top_k=2"], "expected"),
        (['random:of="adhh:top_k=2",match=rate'], "match=rate needs --choosing-captions"),
        (['random:of="removal:top_k=2",match=rate'], "match=rate is for adhh"),
        (['random:of="adhh:top_k=2",match=length'], "match is 'length'; expected rate"),
        (["removal_released:top_k=2"], "mllama"),
    ],
)
def test_what_does_not_fit_the_model_is_one_line(texts, message, material):
    with pytest.raises((ValueError, IndexError)) as error:
        make_members(read_methods(texts), material)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_no_head_list_is_one_line(lvlm, tmp_path):
    with pytest.raises(ValueError, match="needs heads=FILE, or --heads"):
        make("adhh", Material(lvlm))
    with pytest.raises(OSError, match=r"no\.json"):
        make(f"adhh:heads={tmp_path}/no.json", Material(lvlm))
    with pytest.raises(OSError, match="no config.json there"):
        read_methods([f"tfhh:path={tmp_path}"])


def test_heads_that_are_written_out_are_taken_whole(material, lvlm):
    written = replace(material, heads=Path("L3H1,L0H2"))
    defaults = {"adhh": {"top_k": 1, "threshold": 0.7}}
    for text in ("adhh", "adhh:top_k=2", 'adhh:heads="L3H1,L0H2"'):
        (spec,) = read_methods([text], defaults, written.heads)
        (edit,) = make_member(spec, written).method.interventions
        assert (edit.heads, edit.threshold) == ((Head(3, 1), Head(0, 2)), 0.7)
    (spec,) = read_methods([f'adhh:heads="{material.heads}"'], defaults, written.heads)  # a file's list is not
    assert len(make_member(spec, written).method.interventions[0].heads) == 1
    for text in ("adhh:top_k=1", "adhh:list=non_hal_heads"):
        (spec,) = read_methods([text], defaults, written.heads)
        with pytest.raises(ValueError, match="L3H1,L0H2 are heads that are written out: they have no list"):
            make_member(spec, written)


def test_methods_that_cannot_be_told_apart_are_refused(material):
    def labels(*texts):
        return [member.method.label for member in with_own_labels(make_members(read_methods(texts), material))]

    assert labels("adhh:top_k=1", "adhh:top_k=2")[1:] == ["AD-HH (adhh:top_k=1)", "AD-HH (adhh:top_k=2)"]
    for texts in (
        ("adhh:top_k=1,label=x", "removal:top_k=1,label=x"),
        ("adhh:top_k=1,label=greedy",),
        ("adhh:top_k=1", "random:of=adhh,label=greedy"),
    ):
        with pytest.raises(ValueError, match="another row is called|cannot be called"):
            labels(*texts)
    with pytest.raises(ValueError, match="are the same"):
        labels("vcd_paper", "vcd_paper:alpha=1.0")


def test_only_settings_of_one_list_are_chosen_among(material):
    def see(*texts):
        see_choosable(make_members(read_methods(texts), material))

    see("adhh:top_k=2", "adhh:top_k=1,threshold=0.9", "pai", "vcd_paper+adhh:heads=L1H1")
    for texts in (("pai",), ("vcd_paper+adhh:top_k=1",), ("adhh:top_k=1,limit=3",)):
        with pytest.raises(ValueError, match="no adhh on all images"):
            see(*texts)
    with pytest.raises(ValueError, match="several lists"):
        see("adhh:top_k=1", "adhh:heads=L1H1")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["adhh:heads=L3H1,top_k=2"], "and top_k, where it is given, is how many they are"),
        (["adhh:heads=L3H1,list=non_hal_heads"], "they have no list"),
        (['adhh:heads="L3H1,L3H1"'], "no repeats"),
        (["adhh:top_k=1,threshold=true"], "threshold is True; expected a number"),
        (["adhh:top_k=1,threshold=NaN"], "threshold is 'NaN'; expected a number"),
        (["scale:top_k=1,alpha=1,span=3"], "span is 3; expected a text"),
        (['random:of="adhh:top_k=1+removal:top_k=1"'], "edits several sets of heads"),
        (["tfhh"], "needs path"),
        (["greedy:label=x"], "expected no fields"),
        (["vcd_paper+adhh:top_k=1,limit=2"], "limit belongs to the first part of A+B"),
        (["vcd_paper+adhh:top_k=1,label=x"], "label belongs to the first part of A+B"),
        (['random:of="adhh:top_k=1",label=a', 'random:of="adhh:top_k=2",label=a'], "another group is called 'a'"),
        (['random:of="adhh:top_k=1",label=adhh'], None),
    ],
)
def test_fields_are_taken_or_refused(texts, message, material):
    if message is None:
        make_members(read_methods(texts), material)
        return
    with pytest.raises(ValueError) as error:
        make_members(read_methods(texts), material)
    assert message in str(error.value)


def test_seeds_of_two_settings_are_two_groups(material):
    texts = ['seeds:n=2,of="vcd_paper:alpha=0.5"', 'seeds:n=2,of="vcd_paper:alpha=2"']
    groups = [member.group for member in make_members(read_methods(texts), material)[1:]]
    assert groups == [f"VCD, other seeds (vcd_paper:alpha={alpha})" for alpha in (0.5, 0.5, 2, 2)]
    texts = ["vcd_paper", "vcd_paper+adhh:top_k=1", "seeds:n=1,of=vcd_paper"]
    assert make_members(read_methods(texts), material)[-1].method.interventions == ()
