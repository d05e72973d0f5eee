"""attribute --targets: words that others labelled, in any answers; the same numbers as of the same words of CHAIR."""

import json
from pathlib import Path

import numpy as np
import pytest

import llava_hh as hh
from llava_hh.attribution.targets import tokens_of_words
from llava_hh.scripts import attribute, caption
from tests.support.main_job import attribute_flags, caption_flags, read_attribution
from tests.support.tiny_llava15 import llama_tokenizer
from tests.support.verbs import error_of, score_chair, write_rows


@pytest.fixture(scope="module")
def captions(tiny_checkpoint, tiny_coco, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("captions")
    caption.main(caption_flags(tiny_checkpoint, tiny_coco, folder))
    score_chair(["--captions", str(folder / "captions.jsonl"), "--annotations", str(tiny_coco / "annotations")])
    return folder / "captions_eval_results.json"


@pytest.fixture
def flags(tiny_checkpoint, tiny_coco, captions, tmp_path) -> list[str]:
    """Those of an attribution of a file of targets, t.jsonl."""
    given = attribute_flags(tiny_checkpoint, tiny_coco, captions, tmp_path / "out")
    given[given.index("--captions") : given.index("--captions") + 2] = ["--targets", str(tmp_path / "t.jsonl")]
    return given


def rows_of(captions: Path, names: tuple[str, str]) -> list[dict]:
    """The hallucinating captions as a judge would label their words."""
    rows = []
    for entry in json.loads(captions.read_text())["sentences"]:
        if entry["metrics"]["CHAIRs"]:
            spans = [[m["start"], m["end"], names[not m["hallucinated"]]] for m in entry["mentions"]]
            rows.append({"image": entry["image"], "image_id": entry["image_id"], "answer": entry["caption"]})
            rows[-1] |= {"prompt": entry["prompt"], "token_ids": entry["token_ids"], "spans": spans[::-1]}
    return rows


@pytest.mark.parametrize("names", [("hallucinated", "true"), ("wrong", "right")])
def test_words_of_chair_labelled_by_hand(names, flags, captions, tiny_checkpoint, tiny_coco, tmp_path, capsys):
    write_rows(tmp_path / "t.jsonl", rows_of(captions, names))
    labels = [] if names[0] == "hallucinated" else ["--labels", *names]
    attribute.main([*flags, *labels, "--by-source"])
    assert "labelled words of " in capsys.readouterr().err
    attribute.main([*attribute_flags(tiny_checkpoint, tiny_coco, captions, tmp_path / "chair"), "--by-source"])
    ours, expected = (read_attribution(tmp_path / name) for name in ("out", "chair"))
    assert ours[0]["settings"]["labels"] == list(names) and "labels" not in expected[0]["settings"]
    for name in ("hal_heads", "non_hal_heads", "contrastive_influence", "interval", "sources", "n_captions"):
        assert ours[0][name] == expected[0][name], name
    assert np.array_equal(ours[1], expected[1])
    for name, values in expected[2].items():
        assert np.array_equal(ours[2][name], values), name


def test_answers_to_questions_as_text(flags, tiny_checkpoint, tiny_coco, tmp_path):
    """Several answers of one image, whose texts are tokenised: influences as by the library."""
    images = sorted((tiny_coco / "train2014").glob("*.jpg"))[:2]
    asked = [("is it a dog", "dog cat", [[0, 3, "wrong"]]), ("what is it", "bird", [[0, 4, "right"]])]
    asked += [("what else", "a cat dog", [[2, 5, "right"], [6, 9, "wrong"]])]
    rows = [
        {"image": image.name, "prompt": prompt, "answer": answer, "spans": spans}
        for image in images
        for prompt, answer, spans in asked
    ]
    write_rows(tmp_path / "t.jsonl", [*rows, {"image": images[0].name, "answer": "dog", "spans": []}])
    attribute.main([*flags, "--labels", "wrong", "right"])
    result, wrong, log_probs = read_attribution(tmp_path / "out")
    assert (result["n_hallucinated_words"], result["n_true_words"], result["n_captions"]) == (4, 4, 2)
    lvlm, found = hh.load(tiny_checkpoint), []
    for image in images:
        for prompt, answer, spans in asked:
            for start, end, _ in spans:
                measured = hh.attribute(lvlm, image, answer, words=[answer[start:end]], prompt=prompt)
                found.append(measured.influence[0])
    drops = np.exp(log_probs["clean"])[:, None, None] - np.exp(log_probs["heads"])
    np.testing.assert_allclose(drops, found, atol=1e-6)
    rows = [json.loads(line) for line in (tmp_path / "out/targets.jsonl").read_text().splitlines()]
    assert [row["word"] for row in rows] == ["dog", "bird", "cat", "dog"] * 2
    assert [row["hallucinated"] for row in rows] == wrong.tolist() == [True, False, False, True] * 2
    assert {row["image_id"] for row in rows} == {image.name for image in images}


def test_all_tokens_of_a_word(flags, tiny_checkpoint, tiny_coco, tmp_path):
    """Two words of the tiny tokenizer in one span: the sum of what each has alone; in a shortlist as well."""
    image = sorted((tiny_coco / "train2014").glob("*.jpg"))[0]
    spans = [[2, 9, "wrong"], [14, 17, "right"]]
    write_rows(
        tmp_path / "t.jsonl", [{"image": image.name, "prompt": "what", "answer": "a cat dog and cup", "spans": spans}]
    )
    flags = [*flags, "--labels", "wrong", "right"]
    flags[flags.index("--out") + 1] = str(tmp_path / "first")
    attribute.main(flags)
    lvlm = hh.load(tiny_checkpoint)
    alone = []
    for words in ("cat", "dog", "cup"):
        measured = hh.attribute(lvlm, image, "a cat dog and cup", words=[words], prompt="what")
        clean = np.log(measured.probabilities[0])
        alone.append((clean, np.log(measured.probabilities[0] - measured.influence[0])))
    first = read_attribution(tmp_path / "first")[2]
    np.testing.assert_allclose(first["heads"], [alone[0][1], alone[2][1]], atol=1e-4)
    flags[flags.index("--out") + 1] = str(tmp_path / "all")
    attribute.main([*flags, "--tokens", "all", "--by-source"])
    result, _, whole = read_attribution(tmp_path / "all")
    assert result["settings"]["tokens"] == "all"
    np.testing.assert_allclose(whole["clean"], [alone[0][0] + alone[1][0], alone[2][0]], atol=1e-4)
    np.testing.assert_allclose(whole["heads"], [alone[0][1] + alone[1][1], alone[2][1]], atol=1e-4)
    total = sum(whole[f"share_{source}"] for source in ("image", "after", "answer"))
    assert (total <= 1 + 1e-6).all() and total.max() > 0.5
    flags[flags.index("--out") + 1] = str(tmp_path / "screen")
    attribute.main([*flags, "--tokens", "all", "--screen", "4"])
    screened = read_attribution(tmp_path / "screen")[2]["heads"]
    chosen = ~np.isnan(screened[0])
    assert chosen.sum() == 4
    np.testing.assert_allclose(screened[:, chosen], whole["heads"][:, chosen], atol=1e-5)


GOOD = {"image": "a.jpg", "answer": "a dog and a cat", "spans": [[2, 5, "true"]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "row 1: image is None; expected a file's name"),
        ({"image": "../a.jpg"}, "row 1: image '../a.jpg' leaves the image folder"),
        ({"answer": 3}, "row 1: answer is 3; expected a text"),
        ({"spans": {}}, "row 1: spans is {}; expected a list"),
        ({"spans": [[2, 5]]}, "row 1: span [2, 5]; expected [start, end, label]"),
        ({"spans": [[2, 5.0, "true"]]}, "row 1: span [2, 5.0, 'true']; expected [start, end, label]"),
        ({"spans": [[5, 2, "true"]]}, "row 1: span 5 to 2: outside the answer, which has 15 characters"),
        ({"spans": [[12, 16, "true"]]}, "row 1: span 12 to 16: outside the answer"),
        ({"spans": [[1, 5, "true"]]}, "row 1: span 1 to 5 is ' dog'; expected a word without blanks around it"),
        ({"spans": [[2, 5, "odd"]]}, "row 1: span 2 to 5: label 'odd'; expected 'hallucinated' or 'true' (--labels)"),
        ({"spans": [[2, 5, "true"], [4, 9, "true"]]}, "row 1: the spans of 'dog' and 'g and' overlap"),
        ({"token_ids": ["1"]}, "row 1: token_ids is ['1']; expected a list of token ids"),
        ({"prompt": 3}, "row 1: prompt is 3; expected a text"),
        ({"image_id": 1.5}, "row 1: image_id is 1.5; expected a whole number"),
        ({"label": "x"}, "row 1: unknown key 'label'; a row may have image, image_id, prompt"),
        ({"spans": []}, "no labelled word in 1 answers"),
    ],
)
def test_broken_rows_are_one_line(change, message, flags, tmp_path, capsys):
    write_rows(tmp_path / "t.jsonl", [{**GOOD, **change}])
    error = error_of(attribute.main, capsys, *flags).splitlines()[-1]
    assert f"--targets {tmp_path / 't.jsonl'}" in error and message in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "a dog and a cat\n"}, "the text 'a dog and a cat\\n' comes back from this model's tokens as"),
        ({"token_ids": [5, 4000]}, "token id 4000 is none of this model's"),
        ({"token_ids": [5, 6]}, "token_ids spell "),
        ({"image": "none.jpg"}, "none.jpg: no such file; expected an image below --image-folder"),
    ],
)
def test_a_row_that_cannot_be_measured_is_refused_before_the_first_is(
    change, message, flags, tiny_coco, tmp_path, capsys
):
    """And when it is mended the same folder goes on."""
    images = sorted(path.name for path in (tiny_coco / "train2014").glob("*.jpg"))[:4]
    spans = [[2, 5, "hallucinated"], [12, 15, "true"]]
    rows = [{**GOOD, "image": name, "prompt": "what", "spans": spans} for name in images]
    write_rows(tmp_path / "t.jsonl", [*rows[:3], rows[3] | change])
    error = error_of(attribute.main, capsys, *flags).splitlines()[-1]
    assert error.startswith(f"error: --targets {tmp_path / 't.jsonl'}, row 4: ") and message in error
    assert not [*(tmp_path / "out").rglob("*.json")]
    write_rows(tmp_path / "t.jsonl", rows)
    attribute.main(flags)
    assert read_attribution(tmp_path / "out")[0]["n_captions"] == 4


@pytest.mark.parametrize(("label", "missing"), [("true", "hallucinated"), ("hallucinated", "true")])
def test_words_of_one_kind_are_refused_before_the_work(label, missing, flags, tiny_coco, tmp_path, capsys):
    image = sorted((tiny_coco / "train2014").glob("*.jpg"))[0].name
    write_rows(tmp_path / "t.jsonl", [{**GOOD, "image": image, "spans": [[2, 5, label]]}])
    error = error_of(attribute.main, capsys, *flags)
    assert f"--targets {tmp_path / 't.jsonl'}: no {missing} word among 1; more captions or answers are needed" in error
    assert not [*(tmp_path / "out").rglob("*.json")]


def test_all_tokens_of_a_word_that_begins_with_bytes():
    tokenizer = llama_tokenizer(["▁dog"])
    ids = tokenizer("dog é dog", add_special_tokens=False).input_ids
    text = tokenizer.decode(ids)
    at = text.index("é")
    [span] = tokens_of_words(tokenizer, ids, text, [{"start": at, "end": at + 1}])
    assert tokenizer.convert_ids_to_tokens([ids[index] for index in span]) == ["<0xC3>", "<0xA9>"]
    words = [{"start": 0, "end": 3}, {"start": at + 2, "end": at + 5}]
    assert [len(span) for span in tokens_of_words(tokenizer, ids, text, words)] == [1, 1]


def test_flags_that_do_not_go_together(flags, captions, tmp_path, capsys):
    write_rows(tmp_path / "t.jsonl", [GOOD])
    for more, message in (
        (["--captions", str(captions)], "--captions: is instead of --targets"),
        (["--released"], "--released: is instead of --targets"),
        (["--labels", "a", "a"], "--labels: a twice; expected two labels"),
    ):
        assert message in error_of(attribute.main, capsys, *flags, *more)
    at = flags.index("--targets")
    other = [*flags[:at], "--captions", captions, "--labels", "a", "b", *flags[at + 2 :]]
    assert "--labels: needs --targets" in error_of(attribute.main, capsys, *other)
