"""Yes-or-no questions on a random model: text and probabilities against plain generate and forward, every method."""

import json
import shutil
from functools import wraps
from pathlib import Path

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import DeactivateText, ZeroHeads
from llava_hh.decoding.yes_no import word_token_ids
from llava_hh.experiments.pope import judge
from llava_hh.files.files import read_json
from llava_hh.files.images import load_image
from llava_hh.metrics.pope import score
from llava_hh.models.lvlm import load_lvlm
from llava_hh.scripts import evaluate
from tests.support.launching import finish, launch
from tests.support.tiny_checkpoint import N_WORDS, save_polled_checkpoint
from tests.support.tiny_results import of_kind
from tests.support.verbs import report_html

HEADS = [(3, 1), (0, 2)]
ADHH = "adhh:top_k=2,threshold=0.05"
METHODS = {"greedy": "greedy", "adhh": ADHH, "removal": "removal:top_k=2", "vcd_paper": "vcd_paper"}


@pytest.fixture(scope="module")
def polled(tiny_checkpoint, tmp_path_factory) -> Path:
    """The tiny checkpoint with words for yes and no, which it likes best."""
    folder = tmp_path_factory.mktemp("polled") / "model"
    save_polled_checkpoint(tiny_checkpoint, folder)
    return folder


@pytest.fixture(scope="module")
def flags(polled, tiny_coco, tmp_path_factory) -> list[str]:
    heads = tmp_path_factory.mktemp("heads") / "heads.json"
    heads.write_text(json.dumps({"hal_heads": HEADS}))
    flags = [
        "--task",
        "pope",
        "--model",
        polled,
        "--image-folder",
        tiny_coco / "val2014",
        "--annotations",
        tiny_coco / "annotations",
    ]
    flags += ["--limit", 4, "--max-new-tokens", 3, "--batch-size", 5, "--heads", heads]
    return [str(flag) for flag in [*flags, "--methods", *METHODS.values()]]


@pytest.fixture(scope="module")
def done(flags, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pope")
    evaluate.main([*flags, "--out", str(out)])
    return out


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def test_words_are_whole_tokens(polled, tiny_checkpoint):
    found = word_token_ids(load_lvlm(polled))
    assert found == {"yes": [N_WORDS, N_WORDS + 1], "no": [N_WORDS + 2, N_WORDS + 3]}
    lvlm = load_lvlm(tiny_checkpoint)  # all of these words are <unk> there
    with pytest.raises(ValueError, match="the tokenizer has no token for the word yes"):
        word_token_ids(lvlm)


@pytest.mark.parametrize("kind", ["random", "popular", "adversarial"])
@pytest.mark.parametrize("name", ["greedy", "adhh", "removal"])
def test_answers_and_probabilities_are_those_of_a_plain_model(done, polled, tiny_coco, name, kind):
    """One question at a time: generate, and softmax over the whole vocabulary of one forward pass."""
    lvlm = load_lvlm(polled)
    method = {"greedy": [], "adhh": [DeactivateText(HEADS, 0.05)], "removal": [ZeroHeads(HEADS)]}[name]
    asked = [json.loads(line) for line in (done / f"questions_{kind}.jsonl").read_text().splitlines()]
    rows = rows_of(of_kind(done, name) / kind)
    assert len(rows) == len(asked) == 24
    shares = []
    for question, row in zip(asked, rows, strict=True):
        assert {key: row[key] for key in question} == question
        assert row["prompt"] == question["text"] + "\nAnswer the question using a single word or phrase."
        batch = lvlm.encode([load_image(tiny_coco / "val2014" / question["image"])], [row["prompt"]])
        with torch.no_grad(), intervene(lvlm.model, batch.image_mask, method):
            p = lvlm.model(**batch.inputs).logits[0, -1].softmax(-1)
            ids = lvlm.model.generate(**batch.inputs, max_new_tokens=3, do_sample=False)[0]
        yes, no = p[N_WORDS] + p[N_WORDS + 1], p[N_WORDS + 2] + p[N_WORDS + 3]
        shares.append(float(yes / (yes + no)))
        assert row["p_yes"] == pytest.approx(shares[-1], abs=1e-4)
        assert row["answer_by_logits"] == ("yes" if yes > no else "no")
        assert [*row["token_ids"], 2][:3] == ids[-3:].tolist()[: len(row["token_ids"]) + 1]
        assert row["answer"] == lvlm.tokenizer.decode(row["token_ids"])
    assert max(shares) - min(shares) > 0.1


def test_a_decoder_has_no_probability(done, polled, tiny_coco):
    rows = rows_of(of_kind(done, "vcd_paper") / "random")
    assert len(rows) == 24 and not any("p_yes" in row for row in rows)
    summary = read_json(done / "pope.json")["methods"]
    assert "logits" in summary["greedy"] and "logits" not in summary["vcd_paper"]
    texts = {name: [row["answer"] for row in rows_of(of_kind(done, name) / "random")] for name in METHODS}
    assert len({json.dumps(text) for text in texts.values()}) == len(METHODS)


def test_batches_that_memory_had_no_room_for_leave_no_probability(flags, done, polled, tmp_path, monkeypatch):
    """Memory runs out in the second step of more than two rows, when their prompt has passed already."""
    plain = LlavaForConditionalGeneration.forward

    @wraps(plain)
    def forward(self, input_ids=None, **given):
        if input_ids.shape[0] > 2 and input_ids.shape[1] == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, input_ids=input_ids, **given)

    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", forward)
    evaluate.main([*flags[: flags.index("--methods")], "--methods", ADHH, "--out", str(tmp_path)])
    for name, kind in (("greedy", "random"), ("adhh", "popular")):
        ours, theirs = (rows_of(of_kind(folder, name) / kind) for folder in (tmp_path, done))
        assert [row["p_yes"] for row in ours] == pytest.approx([row["p_yes"] for row in theirs], abs=1e-5)


def test_the_summary_is_the_scores_of_the_rows(done):
    result = read_json(done / "pope.json")
    for name in METHODS:
        for kind in ("random", "popular", "adversarial"):
            rows = rows_of(of_kind(done, name) / kind)
            judges = result["methods"][of_kind(done, name).name]
            for judged_by, key, parser in (
                ("llava", "answer", "llava"),
                ("vcd", "answer", "vcd"),
                ("logits", "answer_by_logits", "strict"),
            ):
                if judged_by in judges:
                    expected = score([row[key] for row in rows], [row["label"] for row in rows], parser)
                    assert {own: judges[judged_by][kind][own] for own in expected} == pytest.approx(expected, abs=1e-5)
            assert ("minus_greedy" in judges["llava"][kind]) == (name != "greedy")
        three = [judges["llava"][kind]["accuracy"] for kind in ("random", "popular", "adversarial")]
        assert judges["llava"]["average"]["accuracy"] == pytest.approx(sum(three) / 3, abs=1e-5)
    table = (done / "pope.md").read_text().splitlines()
    assert table[-2:] == ["", "POPE, with 95% bootstrap intervals over images."]
    assert len(table) == 2 + 4 * (3 * 2 + 2) - 4 + 2
    assert result["settings"]["suffix"] == "llava"


def test_a_group_is_judged_by_the_answers_of_all_its_runs(done):
    """Rates with the same denominator are the means over the runs; F1 is that of all answers."""
    kinds = ("random", "popular", "adversarial")
    answers = {name: {kind: rows_of(of_kind(done, name) / kind) for kind in kinds} for name in METHODS}
    found = judge(answers, {"both": ["removal", "adhh"]})
    for kind in kinds:
        both, *runs = [found[name]["llava"][kind] for name in ("both", "removal", "adhh")]
        for metric in ("accuracy", "yes_ratio", "recall"):
            assert both[metric] == pytest.approx(sum(run[metric] for run in runs) / 2, abs=1e-5)
            difference = sum(run["minus_greedy"][metric]["difference"] for run in runs) / 2
            assert both["minus_greedy"][metric]["difference"] == pytest.approx(difference, abs=2e-5)
        assert both["n"] == 2 * runs[0]["n"] and both["tp"] == sum(run["tp"] for run in runs)


def test_a_killed_run_goes_on_and_leaves_the_same(flags, done, tmp_path):
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(of_kind(tmp_path, "removal") / "popular")
    adhh = of_kind(tmp_path, "adhh") / "random"
    for path in (adhh / "blocks/00001.json", adhh / "answers.jsonl", tmp_path / "pope.json"):
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/blocks/*.json")}
    evaluate.main([*flags, "--out", str(tmp_path)])
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    for path in done.rglob("answers.jsonl"):
        assert (tmp_path / path.relative_to(done)).read_bytes() == path.read_bytes()
    assert read_json(tmp_path / "pope.json")["methods"] == read_json(done / "pope.json")["methods"]


def test_two_processes_leave_the_same_answers(flags, done, tmp_path):
    finish(launch(2, "llava_hh", ["evaluate", *flags, "--out", str(tmp_path)]))
    for path in done.rglob("answers.jsonl"):
        assert (tmp_path / path.relative_to(done)).read_bytes() == path.read_bytes()


def test_official_questions_instead(flags, done, tmp_path):
    given = tmp_path / "output"
    given.mkdir()
    for kind in ("random", "popular", "adversarial"):
        rows = [json.loads(line) for line in (done / f"questions_{kind}.jsonl").read_text().splitlines()]
        rows = [{key: row[key] for key in ("question_id", "image", "text", "label")} for row in rows]
        (given / f"coco_pope_{kind}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [*flags[: flags.index("--methods")], "--methods", ADHH, "--questions", str(given)]
    evaluate.main([*own, "--out", str(tmp_path / "out")])
    for name, kind in (("greedy", "random"), ("adhh", "popular")):
        ours, theirs = (rows_of(of_kind(folder, name) / kind) for folder in (done, tmp_path / "out"))
        assert [row["token_ids"] for row in ours] == [row["token_ids"] for row in theirs]
    with pytest.raises(SystemExit) as stopped:
        evaluate.main([*own, "--out", str(tmp_path / "out"), "--suffix", "vcd"])
    assert stopped.value.code == 2


def one_line_error(flags: list, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        evaluate.main([str(flag) for flag in flags])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_wrong_flags_are_one_line(flags, done, tiny_checkpoint, tmp_path, capsys):
    out = ["--out", tmp_path / "out"]
    assert "nowhere" in one_line_error([*flags, "--questions", "nowhere", *out], capsys)
    assert "no kind of method 'pope'" in one_line_error([*flags, "--methods", "pope", *out], capsys)
    shutil.copytree(done / "greedy", tmp_path / "out" / "greedy")
    assert "suffix was 'llava', is 'none'" in one_line_error([*flags, *out, "--suffix", "none"], capsys)
    shutil.copy(done / "questions_random.jsonl", tmp_path / "out")
    assert "draw.seed was 42, is 7" in one_line_error([*flags, *out, "--seed", 7], capsys)
    asked = (tmp_path / "out" / "questions_random.jsonl").read_bytes()
    assert asked == (done / "questions_random.jsonl").read_bytes()
    assert "max_new_tokens was 3, is 4" in one_line_error([*flags, *out, "--max-new-tokens", 4], capsys)
    wordless = [*flags, "--model", tiny_checkpoint, "--out", tmp_path / "wordless"]
    assert "no token for the word yes" in one_line_error(wordless, capsys)


def test_the_report_has_its_table(done, tiny_results, tmp_path):
    folder = Path(shutil.copytree(tiny_results, tmp_path / "results"))
    shutil.copytree(done, folder / "pope" / "val2014")
    report_html([str(folder)])
    page = (folder / "report.html").read_text()
    assert "pope/val2014/pope.json" in page and "unknown % (strict)" in page and "adversarial" in page
    accuracy = read_json(done / "pope.json")["methods"]["greedy"]["logits"]["popular"]["accuracy"]
    assert f"{100 * accuracy:.1f} (" in page
