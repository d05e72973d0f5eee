"""The task of yes-or-no questions: probabilities, judges, questions of files, and the images that are asked about."""

import json
import shutil
from functools import wraps
from pathlib import Path

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from llava_hh.experiments.pope import judge
from llava_hh.files.files import read_json
from llava_hh.metrics.pope import score
from llava_hh.scripts import evaluate
from tests.support.harness import ADHH, flags_for, one_line_error, rows_in
from tests.support.tiny_results import of_kind
from tests.support.verbs import report_html

METHODS = ("greedy", "adhh", "removal", "vcd_paper")
KINDS = ("random", "popular", "adversarial")


@pytest.fixture(scope="module")
def done(pope_run) -> Path:
    return pope_run.out


def rows_of(out: Path, name: str, kind: str) -> list[dict]:
    return rows_in(of_kind(out, name) / kind, "answers.jsonl")


def test_a_decoder_has_no_probability(done):
    rows = rows_of(done, "vcd_paper", "random")
    assert len(rows) == 24 and not any("p_yes" in row for row in rows)
    summary = read_json(done / "pope.json")["methods"]
    assert "logits" in summary["greedy"] and "logits" not in summary["vcd_paper"]
    texts = {name: [row["answer"] for row in rows_of(done, name, "random")] for name in METHODS}
    assert len({json.dumps(text) for text in texts.values()}) == len(METHODS)


def test_batches_that_memory_had_no_room_for_leave_no_probability(pope_run, tmp_path, monkeypatch):
    """Memory runs out in the second step of more than two rows, when their prompt has passed already."""
    plain = LlavaForConditionalGeneration.forward

    @wraps(plain)
    def forward(self, input_ids=None, **given):
        if input_ids.shape[0] > 2 and input_ids.shape[1] == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, input_ids=input_ids, **given)

    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", forward)
    pope_run.evaluate(tmp_path, methods=[ADHH])
    for name, kind in (("greedy", "random"), ("adhh", "popular")):
        ours, theirs = (rows_of(folder, name, kind) for folder in (tmp_path, pope_run.out))
        assert [row["p_yes"] for row in ours] == pytest.approx([row["p_yes"] for row in theirs], abs=1e-5)


def test_the_summary_is_the_scores_of_the_rows(done):
    result = read_json(done / "pope.json")
    for name in METHODS:
        for kind in KINDS:
            rows = rows_of(done, name, kind)
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
        three = [judges["llava"][kind]["accuracy"] for kind in KINDS]
        assert judges["llava"]["average"]["accuracy"] == pytest.approx(sum(three) / 3, abs=1e-5)
    table = (done / "pope.md").read_text().splitlines()
    assert table[-2:] == ["", "POPE, with 95% bootstrap intervals over images."]
    assert len(table) == 2 + 4 * (3 * 2 + 2) - 4 + 2
    assert result["settings"]["suffix"] == "llava"


def test_a_group_is_judged_by_the_answers_of_all_its_runs(done):
    """Rates with the same denominator are the means over the runs; F1 is that of all answers."""
    answers = {name: {kind: rows_of(done, name, kind) for kind in KINDS} for name in METHODS}
    found = judge(answers, {"both": ["removal", "adhh"]})
    for kind in KINDS:
        both, *runs = [found[name]["llava"][kind] for name in ("both", "removal", "adhh")]
        for metric in ("accuracy", "yes_ratio", "recall"):
            assert both[metric] == pytest.approx(sum(run[metric] for run in runs) / 2, abs=1e-5)
            difference = sum(run["minus_greedy"][metric]["difference"] for run in runs) / 2
            assert both["minus_greedy"][metric]["difference"] == pytest.approx(difference, abs=2e-5)
        assert both["n"] == 2 * runs[0]["n"] and both["tp"] == sum(run["tp"] for run in runs)


def test_official_questions_instead(pope_run, done, tmp_path):
    given = tmp_path / "output"
    given.mkdir()
    for kind in KINDS:
        rows = rows_in(done, f"questions_{kind}.jsonl")
        rows = [{key: row[key] for key in ("question_id", "image", "text", "label")} for row in rows]
        (given / f"coco_pope_{kind}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pope_run.evaluate(tmp_path / "out", "--questions", given, methods=[ADHH])
    for name, kind in (("greedy", "random"), ("adhh", "popular")):
        ours, theirs = (rows_of(folder, name, kind) for folder in (done, tmp_path / "out"))
        assert [row["token_ids"] for row in ours] == [row["token_ids"] for row in theirs]
    with pytest.raises(SystemExit) as stopped:
        pope_run.evaluate(tmp_path / "out", "--questions", given, "--suffix", "vcd", methods=[ADHH])
    assert stopped.value.code == 2


def test_the_report_has_its_table(done, tiny_results, tmp_path):
    folder = Path(shutil.copytree(tiny_results, tmp_path / "results"))
    shutil.copytree(done, folder / "pope" / "val2014")
    report_html([str(folder)])
    page = (folder / "report.html").read_text()
    assert "pope/val2014/pope.json" in page and "unknown % (strict)" in page and "adversarial" in page
    accuracy = read_json(done / "pope.json")["methods"]["greedy"]["logits"]["popular"]["accuracy"]
    assert f"{100 * accuracy:.1f} (" in page


@pytest.fixture
def questions(tiny_coco, tmp_path):
    """Official files of 4 images, 3 questions each; the kinds differ in the order of their images."""
    images = sorted(path.name for path in (tiny_coco / "val2014").glob("*.jpg"))[:4]
    for shift, kind in enumerate(KINDS):
        order = images[shift:] + images[:shift]
        rows = [
            {"question_id": 3 * place + number, "image": image, "text": f"Is there a {name}?", "label": "yes"}
            for place, image in enumerate(order)
            for number, name in enumerate(("dog", "cup", "bus"), start=1)
        ]
        rows = rows[::3] + rows[1::3] + rows[2::3] if kind == "popular" else rows  # an image's are not side by side
        (tmp_path / f"coco_pope_{kind}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path, images


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_limit_counts_images(limit, questions, polled, tiny_coco, tmp_path):
    folder, images = questions
    flags = [*flags_for(polled, tiny_coco), "--task", "pope", "--questions", folder, "--batch-size", 4]
    flags += ["--max-new-tokens", 2, "--out", tmp_path / "out", "--limit", limit]
    evaluate.main([str(flag) for flag in flags])
    content = read_json(tmp_path / "out" / "pope.json")
    n_images = min(limit, 4)
    for shift, kind in enumerate(KINDS):
        asked = [row["image"] for row in rows_of(tmp_path / "out", "greedy", kind)]
        assert set(asked) == set((images[shift:] + images[:shift])[:n_images])
        assert len(asked) == 3 * n_images == content["methods"]["greedy"]["strict"][kind]["n"]
        assert content["asked"][kind] == {"images": n_images, "questions": 3 * n_images}
    assert content["settings"]["limit"] == limit


def test_built_questions_are_counted_too(polled, tiny_coco, tmp_path):
    flags = [*flags_for(polled, tiny_coco), "--task", "pope", "--limit", 2, "--max-new-tokens", 2, "--out", tmp_path]
    evaluate.main([str(flag) for flag in flags])
    content = read_json(tmp_path / "pope.json")
    assert content["asked"]["random"] == {"images": 2, "questions": 12}


def test_images_that_no_instances_file_lists_stop_it(polled, tiny_coco, tmp_path, capsys):
    folder = tmp_path / "annotations"
    folder.mkdir()
    for kind in ("captions", "instances"):
        content = json.loads((tiny_coco / "annotations" / f"{kind}_val2014.json").read_text())
        if kind == "instances":
            del content["images"][0]
        (folder / f"{kind}_val2014.json").write_text(json.dumps(content))
    flags = [*flags_for(polled, tiny_coco), "--annotations", folder, "--task", "pope", "--out", tmp_path / "out"]
    assert "has no annotation; looked in" in one_line_error(flags, capsys)
