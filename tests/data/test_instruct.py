"""Instruction data: rows found by their bytes, checked, and made into batches with labels."""

import json

import pytest
import torch

from llava_hh.data import instruct
from llava_hh.data.instruct import Conversation, InstructionData, parse_conversation
from llava_hh.files.images import load_image
from llava_hh.models.lvlm import DESCRIBE, load_lvlm
from tests.support.tiny_llava15 import save_tiny_llava15


def row(*turns: str, image: str | None = None, **more) -> dict:
    said = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(turns)]
    return {"id": "a1", **({"image": image} if image else {}), "conversations": said, **more}


ROWS = [
    row("What?\n<image>", 'A cât, a 猫 and "quotes" ] } [', image="coco/1.jpg"),
    row("Hello", "Hi there"),
    row("<image>\nOne", "two", "three four", "five", image="gqa/2.jpg"),
]


@pytest.mark.parametrize("chunk", [3, 40, 2**24])
@pytest.mark.parametrize("options", [{}, {"indent": 1, "ensure_ascii": False}])
def test_rows_are_read_where_they_stand(tmp_path, monkeypatch, chunk, options):
    monkeypatch.setattr(instruct, "CHUNK", chunk)
    (tmp_path / "d.json").write_text(json.dumps(ROWS, **options), encoding="utf-8")
    data = InstructionData(tmp_path / "d.json")
    assert [data[place] for place in (2, 0, 1)] == [
        Conversation("a1", "gqa/2.jpg", (("One", "two"), ("three four", "five"))),
        Conversation("a1", "coco/1.jpg", (("What?", 'A cât, a 猫 and "quotes" ] } ['),)),
        Conversation("a1", None, (("Hello", "Hi there"),)),
    ]
    assert list(data.has_image) == [1, 0, 1]
    assert data.lengths[1:] == [3, 128 + 5]
    assert data[0].length == data.lengths[0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "expected an object with a list `conversations`"),
        ({"id": 1}, "expected an object with a list `conversations`"),
        (row("a"), "has 1 parts"),
        (row(), "has 0 parts"),
        (row("a", "b", image=["x"]), "expected the name of a file"),
        (row("<image>a", "b", image="../../etc/x.png"), "leaves the image folder"),
        (row("<image>a", "b", image="/etc/x.png"), "leaves the image folder"),
        (row("a", "b", image="x.jpg"), "must stand once, in the first question; it stands in parts \\[\\]"),
        (row("<image>", "b", "<image>", "c", image="x.jpg"), "it stands in parts \\[0, 2\\]"),
        ({"conversations": [{"from": "gpt", "value": "a"}] * 2}, 'conversations\\[0\\] must be {"from": "human"'),
        ({"conversations": [{"from": "human", "value": 3}] * 2}, "conversations\\[0\\] must be"),
    ],
)
def test_a_bad_row_is_named_by_its_index(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message):
        parse_conversation(bad)
    (tmp_path / "d.json").write_text(json.dumps([ROWS[1], bad, ROWS[1]]))
    with pytest.raises(ValueError, match=f"d.json: row 1: .*{message}"):
        InstructionData(tmp_path / "d.json")
    data = InstructionData(tmp_path / "d.json", skip_bad=True)
    assert len(data) == 2 and len(data.bad) == 1
    assert data[1] == data[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a JSON list"),
        ('{"a": 1}', "expected a JSON list"),
        ("[]", "holds no conversation"),
        (json.dumps(ROWS)[:-30], "not JSON"),
        (json.dumps(ROWS)[:-1], "not JSON"),
        ("[nonsense]", "not JSON .* at byte 1"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, text, message):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        InstructionData(tmp_path / "d.json")
    assert "d.json" in str(error.value) and "\n" not in str(error.value)


# --- conversations as batches


TURNS = [(DESCRIBE, "cat dog"), ("And", "a boat"), ("More", "cup")]


@pytest.fixture(scope="module")
def llava15(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava15") / "model"
    save_tiny_llava15(folder)
    return load_lvlm(folder)


def decoded(lvlm, ids) -> str:
    return lvlm.tokenizer.decode(ids)


@pytest.fixture(params=["llava15", pytest.param("mini", marks=pytest.mark.mini)])
def lvlm(request):
    if request.param == "llava15":
        return request.getfixturevalue("llava15")
    return load_lvlm(request.getfixturevalue("mini_path"))


def test_prompt_and_answer_are_tokenised_as_in_captioning(lvlm, tiny_coco):
    image = load_image(next((tiny_coco / "val2014").glob("*.jpg")))
    batch, labels = lvlm.encode_conversations([image, None], [TURNS, [("And", "cup")]], max_length=500)
    alone = lvlm.encode([image], [DESCRIBE])
    start = batch.response_start[0]
    assert batch.inputs["input_ids"][0, :start].tolist() == alone.inputs["input_ids"][0].tolist()
    assert torch.equal(batch.image_mask[0, :start], alone.image_mask[0])
    assert not batch.image_mask[1].any()
    answers = [
        lvlm.tokenizer.decode(part) for part in split_at_gaps(batch.inputs["input_ids"][0].tolist(), labels[0].tolist())
    ]
    end = lvlm.tokenizer.decode(lvlm.end_token_ids[0])
    assert [answer.strip() for answer in answers] == [f"cat dog{end}", f"a boat{end}", f"cup{end}"]
    real = int(batch.inputs["attention_mask"][1].sum())
    assert labels[1, real - 1] == lvlm.end_token_ids[0]
    assert (labels[1, real:] == -100).all() and not batch.inputs["attention_mask"][1, real:].any()
    assert (labels[0, :start] == -100).all()


def split_at_gaps(ids: list[int], labels: list[int]) -> list[list[int]]:
    parts, inside = [], False
    for token, label in zip(ids, labels, strict=True):
        if label != -100:
            assert label == token
            parts += [] if inside else [[]]
            parts[-1].append(token)
        inside = label != -100
    return parts


def test_vicuna_of_several_turns(llava15):
    batch, labels = llava15.encode_conversations([None], [TURNS], max_length=500)
    text = decoded(llava15, batch.inputs["input_ids"][0])
    assert text.count("</s> USER:") == 2 and text.endswith("ASSISTANT: cup</s>")
    assert text.replace("<s> ", "").startswith("A chat between a curious user")


def test_what_is_too_long_is_cut_at_its_end_but_no_image(llava15, tiny_coco):
    image = load_image(next((tiny_coco / "val2014").glob("*.jpg")))
    whole, labels = llava15.encode_conversations([image], [TURNS], max_length=500)
    start = whole.response_start[0]
    batch, cut = llava15.encode_conversations([image], [TURNS], max_length=start + 1)
    assert torch.equal(batch.inputs["input_ids"], whole.inputs["input_ids"][:, : start + 1])
    assert torch.equal(cut, labels[:, : start + 1]) and cut[0, -1] != -100
    with pytest.raises(ValueError, match="max_length 3 cuts an image off"):
        llava15.encode_conversations([image], [TURNS], max_length=3)


def test_a_template_without_an_end_is_refused(llava15, monkeypatch):
    monkeypatch.setattr(llava15.family, "speaks_vicuna", False)
    with pytest.raises(ValueError, match="chat template"):
        llava15.encode_conversations([None], [[("a", "b")]], max_length=99)
