"""The task of captions: the settings, table, times and images of its methods, and the published head list."""

import json
import shutil

import pytest

from llava_hh.decoding.generation import seconds_per_token
from llava_hh.experiments.captioning import Captioned
from llava_hh.experiments.chair import costs_of
from llava_hh.metrics.statistics import summarise
from llava_hh.runs.blocks import Run
from llava_hh.scripts import evaluate
from tests.support.harness import ADHH, HEADS, Harnessed, token_ids
from tests.support.tiny_results import of_kind


def names_of(run: Harnessed) -> list[str]:
    """The folders of its methods, in their order."""
    kinds = [text.split(":")[0] for text in run.methods[:-2]]
    tuned = [name for name, entry in run.read_result()["methods"].items() if entry.get("kind") == "tfhh"]
    return ["greedy", *(of_kind(run.out, kind).name for kind in kinds), *tuned]


def test_run_json_holds_the_effective_settings(chair_run):
    out = chair_run.out
    greedy, vcd, dola, _, adhh, *tuned = (
        json.loads((out / name / "run.json").read_text())["settings"] for name in names_of(chair_run)
    )
    assert "decoder" not in greedy and "decoder" not in adhh
    assert adhh["interventions"][0]["threshold"] == 0.05
    decoder = vcd["decoder"]
    assert (decoder["name"], decoder["alpha"], decoder["beta"]) == ("vcd_paper", 2, 0.1)
    assert dola["decoder"]["variant"] == "textbook"
    assert dola["decoder"]["candidate_layers"] == "even"
    assert tuned[0]["model"]["sha256"] != tuned[1]["model"]["sha256"]


def test_summary_table_and_figure(chair_run):
    out = chair_run.out
    summary = chair_run.read_result()
    rows = [*names_of(chair_run), "tfhh"]
    assert list(summary) == ["schema_version", "settings", "run", "methods"]
    methods = summary["methods"]
    assert list(methods) == rows
    assert methods["greedy"]["relative_time"] == 1
    for name in rows:
        assert methods[name]["relative_time"] > 0 and methods[name]["seconds_per_token"] > 0
        assert len(methods[name]["Bleu"]) == 4 and all(0 <= value <= 1 for value in methods[name]["Bleu"])
        assert ("minus_greedy" in methods[name]) == (name not in ("greedy", "tfhh"))
    vcd = rows[1]
    result = json.loads((out / vcd / "captions_eval_results.json").read_text())["overall_metrics"]
    assert methods[vcd]["CHAIRi"] == pytest.approx(result["CHAIRi"], abs=1e-5)
    assert methods[vcd]["Bleu"] == pytest.approx(result["Bleu"], abs=1e-5)
    assert summary["settings"]["methods"][vcd]["decoder"]["alpha"] == 2
    table = (out / "summary.md").read_text()
    assert "| BLEU-4 % | time per token | as greedy | p (CHAIR_i) | n |" in table
    assert "| TF-HH, mean of 2 runs |" in table and "Holm over 48 tests (6 methods x 8 metrics: " in table
    for ending in ("png", "pdf"):
        assert (out / f"summary.{ending}").stat().st_size > 1000


def test_times_are_of_the_images_that_are_compared(tmp_path):
    """A run that had more images before; of a batch that is cut, the time is not known."""

    def rows_of(*ids: int) -> list[dict]:
        return [{"image_id": number, "token_ids": [1], "finish_reason": "length"} for number in ids]

    for name, seconds in {"greedy": (1, 1, 1), "pai": (2, 8, 9)}.items():
        for number, second in enumerate(seconds):
            rows = rows_of(2 * number, 2 * number + 1)
            Run(tmp_path / name).finish_block(number, rows, rows, seconds=second)
        (tmp_path / name / "captions_eval_results.json").write_text('{"overall_metrics": {}}')

    def captioned(name: str, n_images: int) -> Captioned:
        run = Run(tmp_path / name)
        run.samples, run.size = rows_of(*range(n_images)), 2
        sizes = [len(block["image_ids"]) for block in run.finished_blocks()]
        return Captioned(run.samples, {}, list(zip(seconds_per_token(run), sizes, strict=True)))

    for n_images, expected in ((6, 8), (3, 2), (2, 2)):
        costs = costs_of(tmp_path, {"greedy": captioned("greedy", 6), "pai": captioned("pai", n_images)})
        assert costs["pai"]["relative_time"] == expected


def test_captions_without_times_are_compared_without_them(chair_run, tmp_path, capsys):
    """A folder that an older version left, and a batch of nothing."""
    shutil.copytree(chair_run.out / "greedy", tmp_path / "greedy")
    for path in (tmp_path / "greedy" / "blocks").iterdir():
        block = json.loads(path.read_text())
        path.write_text(json.dumps({key: block[key] for key in block.keys() - {"seconds", "sha256"}}))
    chair_run.evaluate(tmp_path, methods=["greedy"])
    assert "time per token" not in capsys.readouterr().out


def test_a_method_may_have_fewer_images(chair_run, tmp_path):
    chair_run.evaluate(tmp_path, methods=["pai:limit=3", ADHH])
    summary = json.loads((tmp_path / "summary.json").read_text())
    methods = summary["methods"]
    assert {name: entry["n"] for name, entry in methods.items()} == {
        "greedy": 6,
        "greedy, first 3": 3,
        "pai": 3,
        of_kind(tmp_path, "adhh").name: 6,
    }
    sentences = {
        name: json.loads((tmp_path / name / "captions_eval_results.json").read_text())["sentences"]
        for name in ("greedy", "pai")
    }
    assert methods["greedy, first 3"] | {"n": 3} == summarise(sentences["greedy"][:3])
    expected = methods["pai"]["CHAIRi"] - methods["greedy, first 3"]["CHAIRi"]
    assert methods["pai"]["minus_greedy"]["CHAIRi"]["difference"] == pytest.approx(expected, abs=2e-5)
    chair_run.evaluate(tmp_path, methods=["pai:limit=5", ADHH])
    assert len((tmp_path / "pai" / "captions.jsonl").read_text().splitlines()) == 5


def test_the_published_list_is_the_models_own(chair_run, tmp_path, monkeypatch, capsys):
    lists = tmp_path / "heads"
    lists.mkdir()
    for name, n_heads, heads in (("other", 8, [[0, 0]]), ("ours", 4, HEADS)):
        about = {"model_type": "llava", "n_layers": 4, "n_heads": n_heads}
        (lists / f"{name}.json").write_text(json.dumps({"hal_heads": heads, **about}))
    monkeypatch.setattr("llava_hh.heads.PUBLISHED", lists)
    given = [*chair_run.flags, "--methods", ADHH, "--out", str(tmp_path / "out"), "--heads", "published"]
    evaluate.main(given)
    assert token_ids(of_kind(tmp_path / "out", "adhh")) == token_ids(of_kind(chair_run.out, "adhh"))
    listed = json.loads((lists / "ours.json").read_text()) | {"top_k": 1, "threshold": 0.7}
    (lists / "ours.json").write_text(json.dumps(listed))
    given[given.index(ADHH)], given[given.index("--out") + 1] = "adhh", str(tmp_path / "settings")
    evaluate.main(given)  # the list's own, where the method names none
    assert of_kind(tmp_path / "settings", "adhh").name.startswith("adhh-top_k=1-threshold=0.7-")
    with pytest.raises(SystemExit):
        evaluate.main([*given[:-1], ""])
    assert "--heads: empty; expected a file, published, or heads" in capsys.readouterr().err
    (lists / "ours.json").unlink()
    with pytest.raises(SystemExit):
        evaluate.main(given)
    assert "no heads are published for a llava of 4 layers of 4 heads" in capsys.readouterr().err
