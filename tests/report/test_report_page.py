"""The report in a browser: chromium opens it, and the test looks, points, clicks and types."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from llava_hh.attribution.sources import MEASURED_SOURCES
from llava_hh.report.render import render_report
from tests.support.chromium import NEEDED, Page, count, text
from tests.support.tiny_results import TEXT, add_hostile_method, of_kind

pytestmark = NEEDED


@pytest.fixture(scope="module")
def results(tiny_results, tmp_path_factory) -> Path:
    folder = Path(shutil.copytree(tiny_results, tmp_path_factory.mktemp("page") / "tiny"))
    add_hostile_method(folder)
    (folder / "report.html").write_text(render_report(folder))
    return folder


@pytest.fixture
def page(browser, results) -> Iterator[Page]:
    """The report, freshly opened in a wide window; in the end nothing was complained of or asked for."""
    browser.complaints = []
    browser.show_as(1200, 900)
    browser.open(results / "report.html")
    yield browser
    assert browser.complaints == []


def choose_set(page: Page, name: str) -> None:
    page.run(
        f"(() => {{ const s = document.getElementById('set'); s.value = [...s.options].find(o => o.text === "
        f"{json.dumps(name)}).value; s.dispatchEvent(new Event('change')); }})()"
    )


def sentences(results: Path, part: str) -> list[dict]:
    return json.loads((results / part / "captions_eval_results.json").read_text())["sentences"]


def test_it_shows_every_part(page):
    for name in ("methods", "heads", "captions", "figures", "runs"):
        assert count(page, f"#{name}") == 1
    assert count(page, "#head-map [role=gridcell]") == 16
    for shown in ("#caption img", "#figures img"):
        assert page.run(f"((i) => i.decode().then(() => i.naturalWidth))(document.querySelector('{shown}'))") > 0


def test_a_head_tells_its_numbers(page, results):
    """Hover tells score and interval, a click all that is known of the head."""
    content = json.loads((results / "train2014/identify_attention_head/attribution_result.json").read_text())
    page.point('#head-map [data-layer="2"][data-head="3"]')
    score, low, high = (
        page.run(f"signed({value})")
        for value in (
            content["contrastive_influence"][2][3],
            content["interval"]["contrastive_influence"][0][2][3],
            content["interval"]["contrastive_influence"][1][2][3],
        )
    )
    assert page.run("tip.hidden") is False
    assert text(page, "#tip") == f"L2H3  {score} ({low} to {high})"
    page.point('#head-map [data-layer="2"][data-head="3"]', click=True)
    card = text(page, "#head-card")
    assert card.startswith("L2H3")
    flat = sorted((value for layer in content["contrastive_influence"] for value in layer), reverse=True)
    assert f"Rank {flat.index(content['contrastive_influence'][2][3]) + 1} of 16" in card
    assert f"{score} ({low} to {high})" in card
    assert f"{content['influence_hallucinated'][2][3]:.3f}" in card


def test_a_head_map_by_keyboard(page):
    page.point('#head-map [data-layer="1"][data-head="1"]', click=True)
    page.press("ArrowUp")
    assert page.run("document.activeElement.ariaLabel").startswith("L2H1 ")
    page.press("ArrowDown")
    for key in ("ArrowUp", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowLeft"):
        page.press(key)  # one step down too many: it stays at the edge
    assert page.run("document.activeElement.ariaLabel").startswith("L0H2 ")
    assert text(page, "#head-card h3") == "L1H1"
    page.press("Enter")
    assert text(page, "#head-card h3") == "L0H2"


def test_the_filter_finds_what_the_files_say(page, results):
    choose_set(page, "val2014")
    methods = [
        sentences(results, f"val2014/{of_kind(results / 'val2014', kind).name}")
        for kind in ("greedy", "adhh", "random")
    ]
    mentions = [
        {(own["node"], own["hallucinated"]) for method in methods for own in method[place]["mentions"]}
        for place in range(6)
    ]
    object_name = sorted({node for found in mentions for node, _ in found})[0]
    page.press("/")
    assert page.run("document.activeElement.id") == "filter"
    for letter in object_name:
        page.press(letter)
    expected = sum(any(node == object_name for node, _ in found) for found in mentions)
    assert text(page, "#count") == f"{expected} of 6 images"
    assert count(page, "#strip [role=option]") == expected
    assert count(page, ".word.found") > 0
    page.point("#only-wrong", click=True)
    expected = sum((object_name, True) in found for found in mentions)
    assert text(page, "#count") == f"{expected} of 6 images"
    page.point("#only-wrong", click=True)
    page.point("#filter", click=True)
    page.press("Escape")
    assert page.run("[filter.value, document.activeElement.id]") == ["", ""]
    assert text(page, "#count") == "6 of 6 images"
    page.run("filter.value = 'no such object'; filter.dispatchEvent(new Event('input'))")
    assert text(page, "#caption") == "No caption fits."


def test_images_and_keys_by_keyboard(page, results):
    choose_set(page, "val2014")
    ids = [own["image_id"] for own in sentences(results, "val2014/greedy")]

    def shown() -> str:
        return text(page, "#caption figcaption")

    page.press("ArrowRight")
    page.press("ArrowRight")
    assert shown() == f"image {ids[2]}, 3 of 6"
    page.press("ArrowLeft")
    assert shown() == f"image {ids[1]}, 2 of 6"
    page.point('#strip [aria-selected="true"]', click=True)
    page.press("ArrowRight")
    assert page.run("document.activeElement.ariaSelected") == "true"
    page.press("?")
    assert page.run("keys.open") is True
    page.press("Escape")
    assert page.run("keys.open") is False
    assert shown() == f"image {ids[2]}, 3 of 6"


def test_captions_and_their_words_are_text(page, results):
    """Markup in a caption or in a method's name is shown, not run; offsets hold behind a character of two units."""
    choose_set(page, "val2014")
    cards = page.run(
        "[...document.querySelectorAll('#caption article')].map(a => [...a.querySelectorAll('h4, .text')]"
        ".map(e => e.textContent))"
    )
    names = [name for name, _ in cards]
    assert names == ["greedy", "AD-HH", "<img src=x onerror=alert(1)>", "random heads, seed 42 (adhh)"]
    assert cards[2][1] == TEXT.replace("dog", "dog (hallucinated)")
    assert page.run("document.title") == "page0/tiny: hallucination heads"
    assert count(page, "article script, article b, h4 img") == 0
    for place, kind in enumerate(("greedy", "adhh")):
        first = sentences(results, f"val2014/{of_kind(results / 'val2014', kind).name}")[0]
        words = page.run(
            f"[...document.querySelectorAll('#caption article')[{place}].querySelectorAll('.word')]"
            ".map(b => [b.firstChild.textContent, b.classList.contains('wrong')])"
        )
        assert words == [
            [first["caption"][own["start"] : own["end"]], own["hallucinated"]] for own in first["mentions"]
        ]


def test_a_word_shows_influence_and_where_heads_look(page, results):
    choose_set(page, "train2014")
    recorded = json.loads((results / "train2014/word_maps/word_maps.json").read_text())
    arrays = load_file(results / "train2014/word_maps/word_maps.safetensors")
    log_probs = load_file(results / "train2014/identify_attention_head/ablations.safetensors")
    row, word = recorded["captions"][0], recorded["captions"][0]["words"][1]
    page.point("#caption .word:nth-of-type(2)", click=True)
    assert f"“{word['word']}”" in text(page, "#word h3")
    # the rows of both begin with the first caption that hallucinates
    influence = np.exp(log_probs["clean"][1]) - np.exp(log_probs["heads"][1])
    layer, head = np.unravel_index(influence.argmax(), influence.shape)
    assert text(page, "#word ol li button") == f"L{layer}H{head}  {page.run(f'signed({influence.max()})')}"
    parts = load_file(results / "train2014/influence_by_source/ablations.safetensors")
    read = text(page, "#word ol li .note")
    assert read.startswith("by reading the image ") and ", the answer so far " in read
    for name, shown in zip(MEASURED_SOURCES, re.findall(r"[+−][0-9.e-]+", read), strict=True):
        drop = np.exp(parts["clean"][1]) - np.exp(parts[f"without_{name}"][1])
        assert float(shown.replace("−", "-")) == pytest.approx(drop[layer, head], abs=1e-4)
    # second head: over the text, and over the image
    page.point("#word .choice label:nth-of-type(2)", click=True)
    token, share = word["read"][1]["tokens"][0]
    most = text(page, "#word .look .note:not(figcaption)")
    assert most.startswith(
        f"reads (attention times the norm of the value): “{row['tokens'][token].strip()}” {share:.1%}"
    )
    n_image, n_before = row["n_image"], row["n_image"] + row["n_prompt"]
    begin = 2 * (n_before + row["words"][0]["index"])
    n_keys = n_before + word["index"]
    codes = arrays["codes"][begin + n_keys : begin + 2 * n_keys]
    shaded = page.run("[...document.querySelectorAll('.tokens span')].map(s => s.style.getPropertyValue('--share'))")
    assert [float(own.rstrip("%")) for own in shaded[: n_keys - n_image]] == pytest.approx(75 / 255 * codes[n_image:])
    assert set(shaded[n_keys - n_image :]) == {""}
    parts = [f"{100 * part:.1f}%" for part in arrays["parts"][1, 1]]
    assert [
        line.split()[-1] for line in page.run("[...document.querySelectorAll('.sums span')].map(s => s.innerText)")
    ] == parts
    side = row["grid"]["rows"]
    page.run(  # it is painted when the picture has come
        "new Promise(done => { const [i, c] = ['img', 'canvas'].map(name => document.querySelector(`.over ${name}`)); "
        "const look = () => i.naturalWidth && c.width === 2 * i.naturalWidth ? done() : setTimeout(look, 10); "
        "look(); })"
    )
    dark = page.run(
        "(() => { const c = document.querySelector('.over canvas'), w = c.width, h = c.height, "
        f"n = {side}, all = c.getContext('2d').getImageData(0, 0, w, h).data; "
        "return Array.from({length: n * n}, (_, k) => all[4 * (Math.floor((Math.floor(k / n) + .5) * h / n) * w "
        "+ Math.floor((k % n + .5) * w / n)) + 3]); })()"
    )
    assert dark == pytest.approx(255 * 0.78 * (1 - codes[:n_image] / 255), abs=2)
    page.run("document.querySelectorAll('#strip button')[10].click()")
    page.point("#caption .word", click=True)
    assert "No influences or maps were recorded for this caption." in text(page, "#word")


def test_it_opens_where_methods_differ_and_folds_random_draws(browser, tiny_results, tmp_path):
    """The only image where AD-HH says something else is the fourth; there a word stands for another category."""
    folder = Path(shutil.copytree(tiny_results / "val2014", tmp_path / "val2014"))
    greedy = sentences(folder, "greedy")
    adhh, drawn = (of_kind(folder, kind) / "captions_eval_results.json" for kind in ("adhh", "random"))
    content = json.loads(adhh.read_text())
    for place, (entry, plain) in enumerate(zip(content["sentences"], greedy, strict=True)):
        entry |= {"caption": plain["caption"], "mentions": []}
        if place == 3:
            table = {"word": "table", "node": "dining table", "start": 2, "end": 7, "hallucinated": True}
            entry |= {"caption": "A table.", "mentions": [table]}
    adhh.write_text(json.dumps(content))
    (folder / "another draw").mkdir()
    shutil.copy(drawn, folder / "another draw")
    (folder / "report.html").write_text(render_report(folder))
    browser.complaints = []
    browser.show_as(1200, 900)
    browser.open(folder / "report.html")
    assert text(browser, "#caption figcaption") == f"image {greedy[3]['image_id']}, 1 of 6"
    cards = "[...document.querySelectorAll('#caption h4')].filter(h => h.checkVisibility()).map(h => h.innerText)"
    assert browser.run(cards) == ["greedy", "AD-HH"]
    browser.point("#caption details summary", click=True)
    assert browser.run(cards) == ["greedy", "AD-HH", *["random heads, seed 42 (adhh)"] * 2]
    browser.press("ArrowRight")
    assert len(browser.run(cards)) == 4  # unfolded draws stay so
    browser.point("#only-different", click=True)
    assert text(browser, "#count") == "1 of 6 images"
    browser.point("article:nth-of-type(2) .word", click=True)
    assert "AD-HH; counted as dining table: CHAIR looks a word up" in text(browser, "#word .note")
    assert browser.run("document.querySelector('article:nth-of-type(2) .word').title") == "counted as dining table"
    assert browser.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(page, results, scheme):
    page.show_as(390, 844, scheme, phone=True)
    page.open(results / "report.html")
    assert page.run("document.documentElement.scrollWidth") == 390
    paper = page.run("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(252, 252, 250)", "dark": "rgb(20, 23, 26)"}[scheme]
    assert page.run("getComputedStyle(document.querySelector('.word.wrong')).textDecorationStyle") == "wavy"
