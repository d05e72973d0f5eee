"""hh.explain: its captions, influences, maps and fired tokens against other ways to them; its JSON and its page."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import llava_hh as hh
from llava_hh.attention.hooks import record

HEADS, THRESHOLD = [hh.Head(1, 2), hh.Head(2, 0), hh.Head(3, 1)], 0.2
ASKED = {"prompt": "describe", "max_new_tokens": 8}
PARTS = ["image_mass", "question_mass", "generated_mass", "rest_mass"]


@pytest.fixture(scope="module")
def lvlm(tiny_checkpoint):
    return hh.load(tiny_checkpoint)


@pytest.fixture(scope="module")
def image(tiny_coco):
    return sorted((tiny_coco / "val2014").glob("*.jpg"))[0]


@pytest.fixture(scope="module")
def found(lvlm, image):
    return hh.explain(lvlm, image, HEADS, THRESHOLD, **ASKED)


def generated(lvlm, image, edits):
    """Token ids of an answer, without the end token, and whether that was reached."""
    batch = lvlm.encode([image], [ASKED["prompt"]])
    with hh.intervene(lvlm, batch, edits) as trace:
        ids = lvlm.model.generate(**batch.inputs, max_new_tokens=ASKED["max_new_tokens"], do_sample=False)
    ids = ids[0, batch.image_mask.shape[1] :].tolist()
    end = next((number for number, token in enumerate(ids) if token in lvlm.end_token_ids), None)
    return ids[:end], end is not None, trace


def test_captions_are_those_of_caption(lvlm, image, found):
    edits = [hh.DeactivateText(HEADS, THRESHOLD)]
    expected = [lvlm.caption(image, **ASKED)[0], lvlm.caption(image, method=edits, **ASKED)[0]]
    assert [found.greedy.caption, found.adhh.caption] == expected and expected[0] != expected[1]
    assert (found.image, found.heads, found.threshold, found.truth) == (image.name, tuple(HEADS), THRESHOLD, None)
    for caption, edit in ((found.greedy, []), (found.adhh, edits)):
        ids, ended, _ = generated(lvlm, image, edit)
        assert "".join(caption.tokens).strip() == caption.caption and len(caption.tokens) == len(ids)
        assert caption.finish_reason == ("stop" if ended else "length")


def test_words_have_the_influences_of_attribute(lvlm, image, found):
    for caption, edits in ((found.greedy, []), (found.adhh, [hh.DeactivateText(HEADS, THRESHOLD)])):
        ids, *_ = generated(lvlm, image, edits)
        measured = hh.attribute(lvlm, image, ids, prompt=ASKED["prompt"])
        assert [word.word for word in caption.words] == measured.words and caption.words
        assert np.array_equal([word.influence for word in caption.words], measured.influence)
        assert np.array_equal([word.probability for word in caption.words], measured.probabilities)
        for word, target in zip(caption.words, measured.targets, strict=True):
            assert (word.node, word.token, word.hallucinated) == (target.node, target.index, None)
            assert caption.caption[word.start : word.end].lower() == word.word
            assert word.top(2) == measured.top(2, word.word) or measured.words.count(word.word) > 1


def test_looks_are_rows_of_recorded_maps(lvlm, image, found):
    ids, *_ = generated(lvlm, image, [])
    batch = lvlm.encode([image], [ASKED["prompt"]], [ids])
    every = [(layer, head) for layer in range(lvlm.n_layers) for head in range(lvlm.n_heads)]
    with torch.no_grad(), record(lvlm.model, batch.image_mask, maps=every) as trace:
        lvlm.model(**batch.inputs)
    shown, start = batch.image_mask[0].nonzero()[:, 0].tolist(), batch.response_start[0]
    assert found.n_image == len(shown) == found.grid.rows * found.grid.columns
    assert len(found.prompt_tokens) == start - shown[-1] - 1
    for word in found.greedy.words:
        strongest = [head for head, _ in word.top(5)]
        assert [*word.looks] == [*dict.fromkeys([*strongest, *HEADS])]
        for (layer, head), look in word.looks.items():
            row = trace.maps[layer][0][0, head, start + word.token - 1]
            assert np.array_equal(look.on_image, row[shown])
            assert np.array_equal(look.on_text, row[shown[-1] + 1 : start + word.token])
            question, said = row[shown[-1] + 1 : start].sum(), row[start : start + word.token].sum()
            assert [*look.mass] == PARTS
            tokens = [index for index, _ in look.read["tokens"]]
            assert len(tokens) == min(5, len(look.on_text)) and max(tokens) < len(look.on_text)
            assert look.read["image"] + sum(share for _, share in look.read["tokens"]) <= 1 + 1e-6
            sums = [row[shown].sum(), question, said, row[: shown[0]].sum()]
            np.testing.assert_allclose([*look.mass.values()], sums, atol=1e-6)


def test_a_head_fires_where_its_mass_after_the_image_reaches_the_threshold(lvlm, image, found):
    """The answer is read once more under the same edit, and the mass before each decision is recorded."""
    edits = [hh.DeactivateText(HEADS, THRESHOLD)]
    ids, ended, trace = generated(lvlm, image, edits)
    batch = lvlm.encode([image], [ASKED["prompt"]], [ids])
    with hh.intervene(lvlm, batch, edits), hh.record(lvlm, batch, mass=HEADS) as recorded:
        lvlm.model(**batch.inputs)
    first = batch.response_start[0] - 1
    n_decisions = len(ids) + ended
    expected = {}
    for layer, head in HEADS:
        after_image = recorded.mass[layer][0][0, 0, first : first + n_decisions, 1]  # one head of each layer is listed
        assert (after_image - THRESHOLD).abs().min() > 1e-5
        expected[hh.Head(layer, head)] = (after_image >= THRESHOLD).nonzero()[:, 0].tolist()
    assert found.adhh.fired == expected and found.greedy.fired == {}
    assert 0 < sum(map(len, expected.values())) < n_decisions * len(HEADS)
    assert {head: len(at) for head, at in expected.items()} == {head: n for head, (n, _) in trace.fired.items()}


def test_tokens_at_which_rows_of_a_batch_fired(lvlm, tiny_coco):
    """Rows of other lengths have lists of their own, and their lengths add up to the counts."""
    images = sorted((tiny_coco / "val2014").glob("*.jpg"))[:3]
    batch = lvlm.encode(images, [ASKED["prompt"]] * 3)
    edits = [hh.DeactivateText(HEADS[:2], THRESHOLD), hh.DeactivateText(HEADS[1:], 0.9)]
    with hh.intervene(lvlm, batch, edits) as trace:
        lvlm.model.generate(**batch.inputs, max_new_tokens=6, do_sample=False)
    for lengths in ([6, 6, 6], [6, 2, 4]):
        at, counts = trace.fired_at(lengths), trace.fired_within(lengths)
        assert [*at] == [*counts] == HEADS and all(len(rows) == 3 for rows in at.values())
        for head, rows in at.items():
            assert all(row == sorted({*row}) and max(row, default=0) < n for row, n in zip(rows, lengths, strict=True))
            if head != HEADS[1]:  # which two edits name
                assert sum(map(len, rows)) == counts[head].fired
    assert trace.fired_at([6, 2, 4])[HEADS[0]][0] == trace.fired_at([6, 6, 6])[HEADS[0]][0]


def test_words_by_name_and_truth(lvlm, image, found):
    objects = sorted({word.node for word in [*found.greedy.words, *found.adhh.words]})
    judged = hh.explain(lvlm, Image.open(image), HEADS, THRESHOLD, truth=[objects[0].upper()], **ASKED)
    assert judged.image == image.name and judged.truth == [objects[0].upper()]
    for word in [*judged.greedy.words, *judged.adhh.words]:
        assert word.hallucinated == (word.node != objects[0])
    named = [word for word in re.findall(r"\w+", found.greedy.caption) if word not in found.adhh.caption][0]
    some = hh.explain(lvlm, image, HEADS, THRESHOLD, words=named.upper(), truth=[], **ASKED)
    assert {word.word for word in some.greedy.words} == {named} and some.adhh.words == []
    assert all(word.hallucinated for word in some.greedy.words)
    with pytest.raises(ValueError, match="no word 'unicorn' in the captions '"):
        hh.explain(lvlm, image, HEADS, THRESHOLD, words="unicorn", **ASKED)
    with pytest.raises(ValueError, match="truth 'unicorn' is no COCO category and no synonym of one: CHAIR"):
        hh.explain(lvlm, image, HEADS, THRESHOLD, truth=["unicorn"], **ASKED)
    with pytest.raises(ValueError, match="truth is the text 'dog, cat'; expected a list of names"):
        hh.explain(lvlm, image, HEADS, THRESHOLD, truth="dog, cat", **ASKED)
    with pytest.raises(ValueError, match="needs at least one head"):
        hh.explain(lvlm, image, [], **ASKED)
    with pytest.raises(IndexError, match="no head L9H0"):
        hh.explain(lvlm, image, [(9, 0)], **ASKED)


def test_what_can_be_read_once_only(lvlm, image):
    objects = ["dog", "cat"]
    listed = hh.explain(lvlm, image, HEADS, np.float32(THRESHOLD), truth=objects, **ASKED)
    once = hh.explain(lvlm, image, HEADS, THRESHOLD, truth=iter(objects), **ASKED)
    assert once.truth == objects and str(once) == str(listed)
    named = listed.greedy.words[0].word
    some = hh.explain(lvlm, image, HEADS, THRESHOLD, words=(word for word in [named]), **ASKED)
    assert {word.word for word in some.greedy.words} == {named}
    assert hh.attribute(lvlm, image, listed.greedy.caption, words=iter([named])).words[0] == named
    with pytest.raises(ValueError, match="words is empty; leave it out for all object words"):
        hh.explain(lvlm, image, HEADS, THRESHOLD, words=[], **ASKED)


def test_heads_that_are_not_given_are_the_published_ones(lvlm, image, found, tmp_path, monkeypatch):
    """As many as the list says of AD-HH, at its threshold; or all of its heads, at 0.4."""
    monkeypatch.setattr("llava_hh.heads.PUBLISHED", tmp_path)
    about = {"model_type": "llava", "n_layers": lvlm.n_layers, "n_heads": lvlm.n_heads, "hal_heads": [*HEADS, (0, 0)]}
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({**about, "top_k": len(HEADS), "threshold": THRESHOLD}))
    for given in ((), ("published",), (", ".join(map(str, HEADS)), THRESHOLD)):
        assert str(hh.explain(lvlm, image, *given, **ASKED)) == str(found)
    assert hh.explain(lvlm, image, threshold=0.9, **ASKED).threshold == 0.9
    path.write_text(json.dumps(about))
    whole = hh.explain(lvlm, image, **ASKED)
    assert (whole.heads, whole.threshold) == ((*HEADS, hh.Head(0, 0)), 0.4)
    path.unlink()
    with pytest.raises(ValueError, match="no heads are published for a llava of 4 layers of 4 heads"):
        hh.explain(lvlm, image, **ASKED)


def test_the_page_and_its_numbers(lvlm, image, found, tmp_path):
    found.page(tmp_path / "mine.html")
    content = json.loads((tmp_path / "mine.json").read_text())
    assert {"schema_version", "run", *found.content()} == {*content}
    assert [caption["caption"] for caption in content["captions"]] == [found.greedy.caption, found.adhh.caption]
    page = (tmp_path / "mine.html").read_text()
    assert 'href="mine.json"' in page and "No truth was given, so no word counts as hallucinated." in page
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    [shown] = data["sets"][0]["images"]
    assert data["pictures"][shown["key"]].startswith("data:image/webp;base64,")
    for caption, drawn in zip((found.greedy, found.adhh), shown["captions"], strict=True):
        assert drawn["text"] == caption.caption
        for number, word in enumerate(caption.words):
            assert drawn["mentions"][number] == [word.word, word.node, word.start, word.end, None]
            probability, scale, packed = drawn["influence"][number]
            values = np.frombuffer(base64.b64decode(packed), "<i2") / 32767 * scale
            np.testing.assert_allclose(values.reshape(word.influence.shape), word.influence, atol=scale / 32767)
            assert probability == pytest.approx(word.probability, rel=1e-5)
            looks = drawn["maps"]["words"][number]
            assert looks["heads"] == [list(head) for head in word.looks]
            assert looks["read"] == [look.read for look in word.looks.values()]
            codes = np.frombuffer(base64.b64decode(looks["codes"]), np.uint8).reshape(len(word.looks), -1)
            for look, own, scales in zip(word.looks.values(), codes, looks["scales"], strict=True):
                on_image, on_text = np.split(own / 255, [found.n_image])
                np.testing.assert_allclose(on_image * scales[0], look.on_image, atol=scales[0] / 255)
                np.testing.assert_allclose(on_text * scales[1], look.on_text, atol=scales[1] / 255)
    marked = re.findall(r"<h3>(L\dH\d): at (\d+) of (\d+) tokens</h3>\s*<p class=\"tokens\">(.*?)</p>", page, re.DOTALL)
    assert [(head, int(n)) for head, n, *_ in marked] == [(str(h), len(at)) for h, at in found.adhh.fired.items()]
    assert all(text.count("<mark>") == int(n) for _, n, _, text in marked)
    with pytest.raises(ValueError, match=r"page\.txt: expected a name that ends with \.html"):
        found.page(tmp_path / "page.txt")
    (tmp_path / "foreign.html").write_text("mine")
    with pytest.raises(FileExistsError):
        found.page(tmp_path / "foreign.html")
    assert not (tmp_path / "foreign.json").exists() and (tmp_path / "foreign.html").read_text() == "mine"


def test_names_and_captions_that_look_like_markup(lvlm, image, tmp_path):
    odd = tmp_path / "<script>document.title = 1<script>.jpg"
    odd.write_bytes(image.read_bytes())
    found = hh.explain(lvlm, odd, HEADS, THRESHOLD, truth=["dog"], **ASKED)
    found.page(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script>document" not in page and "Given as in the image: dog." in page
    assert str(found).splitlines()[0] == f"greedy: {found.greedy.caption}"
    assert f"  L1H2 was switched off at {len(found.adhh.fired[HEADS[0]])} of " in str(found)
