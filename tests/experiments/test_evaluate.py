"""The harness of all methods on a random model: direct decodes, settings, resuming, two processes."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llava_hh.attention.interventions import DeactivateText
from llava_hh.data.coco import load_image_list
from llava_hh.data.sample import sample_images
from llava_hh.decoding.generation import answer_samples, seconds_per_token
from llava_hh.decoding.method import Greedy
from llava_hh.experiments.captioning import Captioned
from llava_hh.experiments.chair import costs_of
from llava_hh.files.images import load_image
from llava_hh.metrics.statistics import summarise
from llava_hh.models.lvlm import DESCRIBE, load_lvlm
from llava_hh.runs.blocks import Run
from llava_hh.scripts import evaluate
from tests.support.decoding import preset
from tests.support.harness import ADHH, HEADS, N_TOKENS, VCD, flags_for, token_ids
from tests.support.launching import finish, launch
from tests.support.tiny_results import of_kind

METHODS = [VCD, "dola_repo:variant=textbook", "pai", ADHH]


@pytest.fixture(scope="module")
def flags(tiny_checkpoint, tiny_coco, tmp_path_factory) -> list[str]:
    return flags_for(tiny_checkpoint, tiny_coco, tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def tuned(tiny_checkpoint, tmp_path_factory) -> list[Path]:
    """Two other checkpoints of the same shape."""
    folders = []
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp("tuned") / "model"
        shutil.copytree(tiny_checkpoint, folder)
        tensors = load_file(folder / "model.safetensors")
        name = next(key for key in tensors if key.endswith("layers.3.mlp.down_proj.weight"))
        tensors[name] = tensors[name].flip(0).roll(seed, 1).contiguous()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def done(flags, tuned, tmp_path_factory) -> tuple[list[str], Path]:
    """The flags of a comparison of everything, and its folder."""
    out = tmp_path_factory.mktemp("methods")
    every = [*flags, "--out", str(out), "--methods", *METHODS, *(f'tfhh:path="{path}"' for path in tuned)]
    evaluate.main(every)
    return every, out


def names_of(out: Path) -> list[str]:
    """The folders of `done`, in the order of its methods; those of the checkpoints in the order of their seeds."""
    kinds = [text.split(":")[0] for text in METHODS]
    listed = json.loads((out / "summary.json").read_text())["methods"]
    tuned = [name for name, entry in listed.items() if entry.get("kind") == "tfhh"]
    return ["greedy", *(of_kind(out, kind).name for kind in kinds), *tuned]


def test_captions_are_those_of_a_direct_decode(done, tiny_checkpoint, tiny_coco, tuned):
    _, out = done
    lvlm = load_lvlm(tiny_checkpoint)
    samples = sample_images(load_image_list(tiny_coco / "annotations" / "captions_val2014.json"), 6, 42)
    images = [load_image(tiny_coco / "val2014" / sample["file_name"]) for sample in samples]
    methods = [
        Greedy(),
        preset("vcd_paper", alpha=2, noise_step=999),
        preset("dola_repo", variant="textbook"),
        preset("pai"),
        Greedy((DeactivateText(HEADS[:2], 0.05),)),
    ]
    runs = [(lvlm, method) for method in methods] + [(load_lvlm(path), Greedy()) for path in tuned]
    for name, (model, method) in zip(names_of(out), runs, strict=True):
        answers = answer_samples(model, samples, images, method, DESCRIBE, N_TOKENS).answers
        assert token_ids(out / name) == [answer.token_ids for answer in answers], name
    different = {json.dumps(token_ids(out / name)) for name in names_of(out)}
    assert len(different) == len(runs)


def test_run_json_holds_the_effective_settings(done):
    _, out = done
    greedy, vcd, dola, _, adhh, *tuned = (
        json.loads((out / name / "run.json").read_text())["settings"] for name in names_of(out)
    )
    assert "decoder" not in greedy and "decoder" not in adhh
    assert adhh["interventions"][0]["threshold"] == 0.05
    decoder = vcd["decoder"]
    assert (decoder["name"], decoder["alpha"], decoder["beta"]) == ("vcd_paper", 2, 0.1)
    assert dola["decoder"]["variant"] == "textbook"
    assert dola["decoder"]["candidate_layers"] == "even"
    assert tuned[0]["model"]["sha256"] != tuned[1]["model"]["sha256"]


def test_summary_table_and_figure(done):
    _, out = done
    summary = json.loads((out / "summary.json").read_text())
    rows = [*names_of(out), "tfhh"]
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
    assert "| BLEU-4 % | time per token | p (CHAIR_i) | n |" in table
    assert "| TF-HH, mean of 2 runs |" in table and "Holm over 48 tests (6 methods x 8 metrics: " in table
    for ending in ("png", "pdf"):
        assert (out / f"summary.{ending}").stat().st_size > 1000


def test_a_rerun_captions_nothing_and_keeps_the_times(done):
    every, out = done
    files = {path: path.stat().st_mtime_ns for path in out.glob("*/blocks/*.json")}
    captions = {path: path.read_bytes() for path in out.glob("*/captions.jsonl")}
    before = json.loads((out / "summary.json").read_text())
    evaluate.main(every)
    assert len(files) == 3 * 7
    assert all(path.stat().st_mtime_ns == when for path, when in files.items())
    assert all(path.read_bytes() == content for path, content in captions.items())
    after = json.loads((out / "summary.json").read_text())
    assert {**after, "run": None} == {**before, "run": None}


def test_times_of_finished_blocks_are_kept_after_a_kill(flags, done, tmp_path):
    _, out = done
    name = of_kind(out, "vcd_paper").name
    shutil.copytree(out / name, tmp_path / name)
    times = seconds_per_token(Run(out / name))
    (tmp_path / name / "blocks" / "00001.json").unlink()
    (tmp_path / name / "captions.jsonl").unlink()
    evaluate.main([*flags, "--methods", VCD, "--out", str(tmp_path)])
    again = seconds_per_token(Run(tmp_path / name))
    assert (again[0], again[2]) == (times[0], times[2]) and again[1] != times[1]
    assert (tmp_path / name / "captions.jsonl").read_bytes() == (out / name / "captions.jsonl").read_bytes()


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


def test_captions_without_times_are_compared_without_them(flags, done, tmp_path, capsys):
    """A folder that an older version left, and a batch of nothing."""
    _, out = done
    shutil.copytree(out / "greedy", tmp_path / "greedy")
    for path in (tmp_path / "greedy" / "blocks").iterdir():
        path.write_text(
            json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "seconds"})
        )
    evaluate.main([*flags, "--methods", "greedy", "--out", str(tmp_path)])
    assert "time per token" not in capsys.readouterr().out


def test_two_processes_leave_the_same_captions(flags, done, tmp_path):
    _, out = done
    chosen = ["--methods", VCD, ADHH, "--out", str(tmp_path)]
    output = finish(launch(2, "llava_hh", ["evaluate", *flags, *chosen]))
    assert output.count("| AD-HH |") == 1
    for kind in ("greedy", "vcd_paper", "adhh"):
        ours, theirs = (of_kind(folder, kind) / "captions.jsonl" for folder in (tmp_path, out))
        assert ours.read_bytes() == theirs.read_bytes()
    assert (tmp_path / "summary.png").exists()


def test_a_method_may_have_fewer_images(flags, tmp_path):
    evaluate.main([*flags, "--out", str(tmp_path), "--methods", "pai:limit=3", ADHH])
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
    evaluate.main([*flags, "--out", str(tmp_path), "--methods", "pai:limit=5", ADHH])
    assert len((tmp_path / "pai" / "captions.jsonl").read_text().splitlines()) == 5


def test_the_published_list_is_the_models_own(flags, done, tmp_path, monkeypatch, capsys):
    lists = tmp_path / "heads"
    lists.mkdir()
    for name, n_heads, heads in (("other", 8, [[0, 0]]), ("ours", 4, HEADS)):
        about = {"model_type": "llava", "n_layers": 4, "n_heads": n_heads}
        (lists / f"{name}.json").write_text(json.dumps({"hal_heads": heads, **about}))
    monkeypatch.setattr("llava_hh.heads.PUBLISHED", lists)
    given = [*flags, "--methods", ADHH, "--out", str(tmp_path / "out"), "--heads", "published"]
    evaluate.main(given)
    assert token_ids(of_kind(tmp_path / "out", "adhh")) == token_ids(of_kind(done[1], "adhh"))
    (lists / "ours.json").unlink()
    with pytest.raises(SystemExit):
        evaluate.main(given)
    assert "none for a llava of 4 layers of 4 heads; there are other" in capsys.readouterr().err
