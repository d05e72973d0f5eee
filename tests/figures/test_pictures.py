"""Pictures of any legal captions and results, and scripts whose table stands although a picture fails."""

import ast
import json
import re
import shutil
import warnings
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from llava_hh.comparing.summary import compare
from llava_hh.experiments.choice import choose
from llava_hh.figures import caption_examples
from llava_hh.figures.methods import draw_methods
from llava_hh.figures.style import picture, plt, save_figure
from llava_hh.figures.trade_off import draw_trade_off
from llava_hh.metrics.chair.chair import corpus_metrics, score_caption
from llava_hh.metrics.statistics import summarise
from llava_hh.scripts import evaluate, figure
from tests.support.repository import BASELINES, MODULES, NEWER
from tests.support.tiny_checkpoint import SINGLE_WORDS
from tests.support.verbs import compare_details, report_html

OBJECTS = [{"dog"}, {"dog", "chair"}, {"cat"}, set()]
LEGAL = {
    "two paragraphs": "A dog sits on a chair.\n\nThere is a cat\nas well.",
    "tab and blanks": "A\tdog  sits   on a chair. \t\n \n And a \r\n cat.",
    "empty": "",
    "blank": " \n\t ",
    "no objects": "Nothing is to be seen here.",
    "dollars": "A dog for $5, a cat for $6 and a $\\frac{chair}{$ of $^{2.",
    "one long word": "dog" * 200 + " cat",
    "without blanks": "一只狗坐在椅子上。" * 60 + " cat",
    "emoji": "A dog \U0001f415\u200d\U0001f9ba\U0001f3fd and a cat \u2764\ufe0f \U0001f1e9\U0001f1ea.",
    "right to left": "\u202bכלב dog \u0643\u0644\u0628\u202c cat",
    "control characters": "A dog\x00 and\x1b[31m a cat\x7f\x0b\x85\u2028 and a chair\ufeff.",
    "long": "There is a dog, a cat and a chair. " * 20,
}
SETS = {name: [text] * len(OBJECTS) for name, text in LEGAL.items()}
SETS |= {
    "one image": ["A cat."],
    "one right image": ["A dog."],
    "all right": ["A dog.", "A chair.", "A cat.", "Nothing."],
    "all wrong": ["A knife."] * len(OBJECTS),
}


def write_run(folder: Path, captions: list[str]) -> Path:
    """A result folder with scored captions of grey images, which lie in `images` beside it."""
    folder.mkdir(parents=True)
    (folder.parent / "images").mkdir(exist_ok=True)
    sentences = []
    for number, text in enumerate(captions):
        name = f"{number}.png"
        Image.new("RGB", (40, 30), "grey").save(folder.parent / "images" / name)
        entry = {"image_id": number, "image": name, "text": text}
        sentences.append(entry | score_caption(text, OBJECTS[number % len(OBJECTS)]))
    content = {"sentences": sentences, "overall_metrics": corpus_metrics(sentences, "hh")}
    (folder / "captions_eval_results.json").write_text(json.dumps(content))
    return folder / "captions_eval_results.json"


def is_drawn(out: Path) -> bool:
    return all(out.with_name(f"{out.name}.{ending}").stat().st_size > 2000 for ending in ("png", "pdf"))


@pytest.mark.parametrize("name", SETS)
def test_captions_of_every_legal_kind_are_drawn_without_a_warning(name, tmp_path):
    """Beside other captions, beside empty ones, or beside the same."""
    captions = SETS[name]
    changed = {"all wrong": captions, "one image": [""], "one right image": captions}.get(name, captions[::-1])
    paths = [write_run(tmp_path / "greedy", captions), write_run(tmp_path / "adhh", changed)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caption_examples.draw_caption_examples(*paths, tmp_path / "images", tmp_path / "picture")
    assert is_drawn(tmp_path / "picture")


@pytest.mark.parametrize("text", LEGAL.values(), ids=LEGAL)
def test_every_character_is_drawn_once_and_hallucinated_ones_in_red(text, tmp_path, monkeypatch):
    """Black and red letters, laid over each other, are the caption without its white space."""
    drawn: list[Figure] = []
    monkeypatch.setattr(caption_examples, "save_figure", lambda figure, out: drawn.append(figure))
    paths = [write_run(tmp_path / name, [text]) for name in ("greedy", "adhh")]
    caption_examples.draw_caption_examples(*paths, tmp_path / "images", tmp_path / "picture")
    texts = [own for own in drawn[0].axes[1].texts if own.get_fontfamily() == ["monospace"]]
    plt.close(drawn[0])
    assert not any(own.get_parse_math() for own in texts)
    texts = texts[: -len(caption_examples.LEGEND)]
    black, red, again = ("".join(own.get_text() for own in texts[first::3]) for first in (0, 1, 2))
    together = "".join(max(letters) for letters in zip(black, red, again, strict=True))
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in re.sub(r"\s", "", text))
    assert together.replace(" ", "") == 2 * shown
    wrong = [own for own in score_caption(text, OBJECTS[0])["mentions"] if own["hallucinated"]]
    expected = "".join(re.sub(r"\s", "", text[own["start"] : own["end"]]) for own in wrong)
    assert re.sub(r"\s", "", red) == 2 * expected
    assert all(len(own.get_text()) <= caption_examples.LINE_CHARACTERS for own in texts)


def test_lines_by_hand():
    width = caption_examples.LINE_CHARACTERS
    text = "aa bb\n\ncc\tdd  " + "e" * (width + 2)
    lines = ["".join(text[index] for index in line) for line in caption_examples.wrap(text)]
    assert lines == ["aa bb", "cc\tdd", "e" * width, "ee"]
    text = "a" * 29 + " " + "b" * (width - 30) + " c"  # a full line, then one more word
    assert [len(line) for line in caption_examples.wrap(text)] == [width, 1]
    assert caption_examples.wrap(" \n") == []


@pytest.mark.parametrize("name", ["empty", "one image", "all wrong"])
def test_details_and_methods_of_every_legal_kind_are_drawn(name, tmp_path, capsys):
    """One run, or two that are equal; the name of a run is text, dollar signs or not."""
    runs = ["greedy"] if name == "one image" else ["greedy", "$x_{$"]
    paths = [write_run(tmp_path / "runs" / run, SETS[name]) for run in runs]
    sentences = json.loads(paths[0].read_text())["sentences"]
    summary = tmp_path / "summary.json"
    summary.write_text(json.dumps(compare(dict.fromkeys(runs, sentences), {}, {"split": "val2014"})))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_methods(summary, tmp_path / "summary")
        compare_details([*map(str, paths), "--out", str(tmp_path / "out")])
    for picture_of in ("summary", "out/chair_categories", "out/chair_cooccurrence", "out/chair_positions"):
        assert is_drawn(tmp_path / picture_of)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["empty", "one image"])
def test_a_choice_is_made_and_drawn_where_nothing_is_better(name, tmp_path):
    greedy = summarise(json.loads(write_run(tmp_path / "greedy", SETS[name]).read_text())["sentences"])
    points = [{"top_k": 1, "threshold": 0.4, **greedy}]
    assert choose(points, greedy, recall_loss=1, repeats_rise=1) is None
    (tmp_path / "choice.json").write_text(json.dumps({"points": points, "greedy": greedy, "chosen": None}))
    draw_trade_off(tmp_path / "choice.json", tmp_path / "choice")
    assert is_drawn(tmp_path / "choice")


def test_a_choice_where_greedy_decoding_mentions_nothing():
    greedy = {"recall": 0.0, "repeated": 0.0, "CHAIRi": 0.0}
    assert choose([{**greedy, "CHAIRi": 0.5}], greedy, 0.1, 0.1) is None


def test_the_choice_keeps_recall_and_repeats_little():
    """Of what is left, the lowest CHAIR_i; limits themselves are kept."""
    greedy = {"recall": 0.9, "repeated": 0.02, "CHAIRi": 0.2}
    rows = [(0.869, 0.02, 0.01), (0.9, 0.041, 0.01), (0.87, 0.04, 0.1), (0.9, 0, 0.15)]  # forgets, repeats, best, fair
    points = [dict(zip(("recall", "repeated", "CHAIRi"), row, strict=True)) for row in rows]
    assert choose(points, greedy, recall_loss=0.03, repeats_rise=0.02) == points[2]


def test_a_picture_that_fails_is_one_line(tmp_path, capsys):
    save_figure(plt.figure(), tmp_path / "map")
    with picture(tmp_path / "map", debug=False) as out:
        plt.figure()
        assert out == tmp_path / "map"
        raise KeyError("two\nlines")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"warning: {tmp_path}/map.png could not be drawn: KeyError: ")
    assert said.err.count("\n") == 1 and "--debug" in said.err
    assert not plt.get_fignums()
    assert not list(tmp_path.iterdir()), "an older picture beside a new result shows other numbers"
    with pytest.raises(KeyError), picture(tmp_path / "map", debug=True):
        raise KeyError
    with picture(tmp_path / "map", debug=False) as out:
        save_figure(plt.figure(), out)
    assert capsys.readouterr().out == f"{tmp_path}/map.png\n"


@pytest.mark.parametrize("path", MODULES + BASELINES + NEWER, ids=lambda path: path.name)
def test_whatever_draws_does_so_where_a_failure_stops_nothing(path):
    """Every use of a drawing function stands in a `with picture(...)`, or in a table of such functions.

    Or in a figure's method `draw`, whose every use stands in one.
    """
    tree = ast.parse(path.read_text())
    drawing = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llava_hh.figures.")
        for alias in node.names
        if alias.name.startswith("draw_")
    }
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and "picture(" in ast.unparse(node.items[0].context_expr)
        for inner in ast.walk(node)
    }
    methods = [node for owner in ast.walk(tree) if isinstance(owner, ast.ClassDef) for node in owner.body]
    guarded |= {id(inner) for node in methods if getattr(node, "name", "") == "draw" for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "figure.draw":
            assert id(node) in guarded, f"{path}, line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in drawing | {"draw"}:
            assert id(node) in guarded, f"{path}, line {node.lineno}"


@pytest.fixture(scope="module")
def broken_lines(tiny_checkpoint, tmp_path_factory) -> Path:
    """The tiny checkpoint, which ends paragraphs at some words, as LLaVA-1.5 does."""
    folder = tmp_path_factory.mktemp("broken") / "lines"
    shutil.copytree(tiny_checkpoint, folder)
    text = (folder / "tokenizer.json").read_text()
    for word in SINGLE_WORDS:
        text = text.replace(f'"{word}"', f'"{word}.\\n\\n"')
    (folder / "tokenizer.json").write_text(text)
    return folder


def compare_flags(checkpoint: Path, coco: Path, heads: Path, out: Path) -> list[str]:
    heads.write_text(json.dumps({"hal_heads": [[0, 1], [2, 3]]}))
    flags = ["--model", checkpoint, "--image-folder", coco / "val2014", "--annotations", coco / "annotations"]
    flags += ["--heads", heads, "--methods", "adhh:top_k=2", "--limit", 6, "--max-new-tokens", 8, "--out", out]
    return [str(flag) for flag in flags]


def test_captions_with_line_breaks_reach_the_table_and_the_picture(broken_lines, tiny_coco, tmp_path, capsys):
    evaluate.main(compare_flags(broken_lines, tiny_coco, tmp_path / "heads.json", tmp_path / "out"))
    said = capsys.readouterr()
    content = json.loads((tmp_path / "out" / "greedy" / "captions_eval_results.json").read_text())
    assert any("\n\n" in entry["caption"] for entry in content["sentences"])
    assert "| greedy |" in said.out and "warning" not in said.err
    assert said.out.splitlines()[-1] == str(tmp_path / "out" / "summary_captions.png")


def test_the_page_is_written_where_nothing_is_hallucinated(tiny_checkpoint, tmp_path, capsys):
    """bash_scripts/report.sh records words first; captions without a hallucination have none to record."""
    captions = write_run(tmp_path / "results" / "greedy", ["A dog.", "\n\n", "A cat.", "Nothing.\n\nNothing."])
    flags = ["--model", tiny_checkpoint, "--captions", captions, "--image-folder", tmp_path / "results" / "images"]
    figure.main(
        [str(flag) for flag in ("words", *flags, "--heads", "none.json", "--out", tmp_path / "results" / "maps")]
    )
    assert capsys.readouterr().out == f"{captions}: no caption with a hallucinated object, so there are no word maps\n"
    report_html([str(tmp_path / "results")])
    assert "Nothing.\\n\\nNothing." in (tmp_path / "results" / "report.html").read_text()


@pytest.mark.parametrize("debug", [False, True])
def test_the_table_stands_where_its_picture_cannot_be_drawn(
    debug, tiny_checkpoint, tiny_coco, tmp_path, capsys, monkeypatch
):
    def fail(*_):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(caption_examples, "load_image", fail)
    flags = compare_flags(tiny_checkpoint, tiny_coco, tmp_path / "heads.json", tmp_path / "out")
    if debug:
        with pytest.raises(RuntimeError):
            evaluate.main([*flags, "--debug"])
    else:
        evaluate.main(flags)
    said = capsys.readouterr()
    assert "| greedy |" in said.out and str(tmp_path / "out" / "summary.json") in said.out
    assert (tmp_path / "out" / "summary.json").is_file()
    warned = [line for line in said.err.splitlines() if line.startswith("warning")]
    picture_of = tmp_path / "out" / "summary_captions.png"
    expected = f"warning: {picture_of} could not be drawn: RuntimeError: no such luck; --debug shows where"
    assert warned == ([] if debug else [expected])


def test_a_caption_of_a_thousand_lines_is_cut():
    figure, axis = plt.subplots()
    entry = {"caption": "dog\n" * 1000, "mentions": []}
    assert caption_examples._write(axis, 0, entry) == caption_examples.MOST_LINES + 1
    assert axis.texts[-1].get_text() == f"... {1000 - caption_examples.MOST_LINES:,} more lines"
    plt.close(figure)
