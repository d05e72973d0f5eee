"""The grammar of methods: what is read is what was written, and what cannot be read is one line."""

import random
import string

import pytest

from llava_hh.decoding.grammar import Spec, parse
from llava_hh.decoding.making import folder_name

READ = {
    "greedy": Spec("greedy"),
    "adhh:top_k=20,threshold=0.4,heads=a/b.json": Spec("adhh", {"top_k": 20, "threshold": 0.4, "heads": "a/b.json"}),
    'tfhh:path="a, b/c:d+e"': Spec("tfhh", {"path": "a, b/c:d+e"}),
    'tfhh:path="12"': Spec("tfhh", {"path": "12"}),
    "vcd_paper:do_sample=false,top_p=null,alpha=1e-3": Spec(
        "vcd_paper", {"do_sample": False, "top_p": None, "alpha": 0.001}
    ),
    'random:draws=5,of="scale:span=image,alpha=1.5"': Spec("random", {"draws": 5, "of": "scale:span=image,alpha=1.5"}),
    'dola_repo:candidate_layers="[0, 2]"': Spec("dola_repo", {"candidate_layers": [0, 2]}),
    'adhh:label="say ""no"""': Spec("adhh", {"label": 'say "no"'}),
    "pai:alpha=0.2+adhh:top_k=2,on=clean": Spec("pai", {"alpha": 0.2}, Spec("adhh", {"top_k": 2, "on": "clean"})),
    "tfhh:path=x+scale:alpha=0+adhh": Spec("tfhh", {"path": "x"}, Spec("scale", {"alpha": 0}, Spec("adhh"))),
}
REFUSED = {
    "": "expected kind:field=value",
    "adhh:": "'' is no field=value; expected kind:field=value",
    "adhh:top_k": "'top_k' is no field=value",
    "adhh:top_k=": "'top_k=' is no field=value",
    "adhh:top_k=1,top_k=2": "top_k is given twice",
    "adhh:top_k=1,,x=2": "',x=2' is no field=value",
    "adhh:top_k=1,": "'' is no field=value",
    "adhh top_k=1": "' top_k=1' follows a field or a kind",
    'tfhh:path="a': "'path=\"a' is no field=value",
    'tfhh:path="a"b': "'b' follows a field or a kind; expected kind:field=value",
    "+adhh": "expected kind:field=value",
    "adhh+": "expected kind:field=value",
    "2x": "expected kind:field=value",
}


@pytest.mark.parametrize("text", READ)
def test_a_method_is_read_and_written_again(text):
    spec = parse(text)
    assert spec == READ[text]
    assert parse(str(spec)) == spec


@pytest.mark.parametrize("text", REFUSED)
def test_other_forms_are_one_line(text):
    with pytest.raises(ValueError) as error:
        parse(text)
    assert str(error.value).startswith(f"method {text!r}: ") and REFUSED[text] in str(error.value)
    assert "\n" not in str(error.value)


def test_any_text_goes_through_quotes():
    rng = random.Random(0)
    for _ in range(500):
        value = "".join(rng.choices(string.printable + 'ä"",:+', k=rng.randint(1, 12)))
        spec = Spec("adhh", {"label": value, "top_k": rng.randint(1, 9)}, Spec("removal", {"heads": value}))
        if value[:1] not in "[{":
            assert parse(str(spec)) == spec, value


def test_folder_names_are_short_and_safe():
    assert (
        folder_name([["adhh", "top_k=2", "threshold=0.965"]], ["1a2b3c4d"]) == "adhh-top_k=2-threshold=0.965-1a2b3c4d"
    )
    assert folder_name([["vcd_paper"], ["adhh", "top_k=2"]], ["12"], "clean") == "vcd_paper+adhh-top_k=2-on=clean-12"
    odd = folder_name([["halc_clean", "detector=/a b/../c:d"]], [])
    assert odd == "halc_clean-detector=_a_b_.._c_d"
    long = [["vcd_paper", *(f"field_{number}=0.123456" for number in range(20))]]
    assert len(folder_name(long, [])) <= 120 and folder_name(long, []) != folder_name([[*long[0], "x=1"]], [])
