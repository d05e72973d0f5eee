"""Methods as they are read: before anything is loaded, with a profile's fields, and checkpoints that stand alone."""

import shutil
import weakref
from types import SimpleNamespace

import pytest

from llava_hh.decoding.reading import read_methods
from llava_hh.experiments import captioning as evaluation
from llava_hh.experiments import evaluate
from llava_hh.models import lvlm as lvlm_module
from llava_hh.scripts.flags import method_defaults


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["adh:top_k=2"], "no kind of method 'adh'; did you mean adhh?"),
        (["adhh:topk=2"], "no field of adhh 'topk'; did you mean top_k?"),
        (["vcd_paper:beta=7"], "VcdSettings: beta must be above 0"),
        (["vcd_paper:alfa=7"], "did you mean alpha?"),
        (["adhh", "adhh"], "named more than once"),
        (["tfhh"], 'needs path="FOLDER"'),
        (["random:draws=2"], "needs of=METHOD"),
        (["adhh:on=clean"], "`on` belongs to an intervention under a decoder"),
        (["vcd_paper+pai"], "puts an intervention B under a method A, not pai"),
        (["random:of=adhh+adhh"], "puts an intervention B under a method A"),
        (["vcd_paper+adhh:on=dirty"], "on is 'dirty'; expected all or clean"),
        (["vcd_paper+adhh:on=clean+removal"], "interventions under one decoder act on the same branches"),
        (["dola_repo+adhh:on=clean"], "on=clean is for a decoder that knows its branches; dola_repo does not"),
        (["removal+adhh:on=clean"], "on=clean is for a decoder that knows its branches; removal does not"),
        (["adhh:limit=0"], "limit: expected a whole number of at least 1"),
        (["greedy:limit=2"], "greedy decoding has all images"),
    ],
)
def test_what_cannot_be_is_seen_before_anything_is_loaded(texts, message):
    with pytest.raises(ValueError) as error:
        read_methods(texts)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_profile_fills_fields_that_a_method_does_not_name(tmp_path):
    (tmp_path / "mine.sh").write_text("inherit=mini\ntop_k=3\nthreshold=0.7\nremoval_top_k=4\nreweight_top_k=2\n")
    defaults = method_defaults(SimpleNamespace(profile=str(tmp_path / "mine.sh")))
    texts = [
        "adhh",
        "adhh:top_k=1",
        "vcd_paper+adhh:threshold=0",
        "scale:alpha=0",
        "random:of=adhh",
        "random:of=removal",
    ]
    assert [str(spec) for spec in read_methods(texts, defaults)] == [
        "adhh:top_k=3,threshold=0.7",
        "adhh:top_k=1,threshold=0.7",
        "vcd_paper+adhh:top_k=3,threshold=0",
        "scale:top_k=2,alpha=0",
        "random:of=adhh",
        'random:of="removal:top_k=4"',
    ]
    assert str(read_methods(["adhh:choice=c.json"], defaults)[0]) == "adhh:choice=c.json"
    assert method_defaults(SimpleNamespace(profile=None)) == {}


def test_a_checkpoint_is_loaded_alone(tiny_checkpoint, tiny_coco, tmp_path, monkeypatch):
    """Fine-tunings of two seeds: the base model and each checkpoint once, and never two of them at a time."""
    for name in ("one", "two"):
        shutil.copytree(tiny_checkpoint, tmp_path / name / "model")
    held, most, load = [], [], lvlm_module.load_lvlm

    def counted(path, *more):
        found = load(path, *more)
        held.append(weakref.ref(found.model))
        most.append(sum(each() is not None for each in held))
        return found

    for module in (evaluation, evaluate):
        monkeypatch.setattr(module, "load_lvlm", counted)
    methods = [f'tfhh:path="{tmp_path / name}"' for name in ("one", "two")]
    images, annotations = tiny_coco / "val2014", tiny_coco / "annotations"
    evaluate.evaluate(methods, tiny_checkpoint, images, annotations, tmp_path / "out", limit=2, max_new_tokens=3)
    assert len(held) == 3 and set(most) == {1}
