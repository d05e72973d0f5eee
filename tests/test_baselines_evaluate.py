"""The harness of all methods on a random model: direct decodes, overrides, resuming, two processes, wrong input."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from launching import finish, launch
from safetensors.torch import load_file, save_file

from baselines import dola, evaluate, pai, vcd
from llava_hh.blocks import Run
from llava_hh.data.coco import load_image_list
from llava_hh.data.images import load_image
from llava_hh.data.sample import sample_images
from llava_hh.decoding.method import Decoding
from llava_hh.generation import answer_samples, seconds_per_token
from llava_hh.interventions import DeactivateText
from llava_hh.metrics.compare import summarise
from llava_hh.models.lvlm import DESCRIBE, load_lvlm

HEADS = [[3, 1], [0, 2], [2, 2]]
N_TOKENS = 8
PRESETS = ["vcd_paper", "dola_repo", *list(pai.PRESETS)[:1]]
OVERRIDES = ["vcd_paper.alpha=2", "vcd_paper.noise_step=999", "dola_repo.variant=textbook"]


@pytest.fixture(scope="module")
def flags(tiny_checkpoint, tiny_coco, tmp_path_factory) -> list[str]:
    """All flags but --methods and --out."""
    heads = tmp_path_factory.mktemp("heads") / "heads.json"
    heads.write_text(json.dumps({"hal_heads": HEADS}))
    flags = ["--model", tiny_checkpoint, "--image-folder", tiny_coco / "val2014", "--heads", heads, "--top-k", 2]
    flags += ["--annotations", tiny_coco / "annotations", "--limit", 6, "--max-new-tokens", N_TOKENS, "--batch-size", 2]
    return [str(flag) for flag in [*flags, "--threshold", 0.05]]


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
    every = [*flags, "--methods", *PRESETS, "adhh", "tfhh", "--set", *OVERRIDES, "--out", str(out)]
    every += ["--tfhh-model", *map(str, tuned)]
    evaluate.main(every)
    return every, out


def token_ids(folder: Path) -> list[list[int]]:
    return [json.loads(line)["token_ids"] for line in (folder / "captions.jsonl").read_text().splitlines()]


def test_captions_are_those_of_a_direct_decode(done, tiny_checkpoint, tiny_coco, tuned):
    _, out = done
    lvlm = load_lvlm(tiny_checkpoint)
    samples = sample_images(load_image_list(tiny_coco / "annotations" / "captions_val2014.json"), 6, 42)
    images = [load_image(tiny_coco / "val2014" / sample["file_name"]) for sample in samples]
    wild = replace(vcd.PRESETS["vcd_paper"], alpha=2, noise_step=999)
    textbook = replace(dola.PRESETS["dola_repo"], variant="textbook")
    methods = {
        "greedy": [],
        "vcd_paper": Decoding("vcd_paper", vcd.decode, wild),
        "dola_repo": Decoding("dola_repo", dola.decode, textbook),
        PRESETS[2]: Decoding(PRESETS[2], pai.decode, pai.PRESETS[PRESETS[2]]),
        "adhh": [DeactivateText(HEADS[:2], 0.05)],
    }
    runs = {name: (lvlm, method) for name, method in methods.items()}
    runs |= {f"tfhh_{seed}": (load_lvlm(path), []) for seed, path in enumerate(tuned, 1)}
    for name, (model, method) in runs.items():
        answers, _ = answer_samples(model, samples, images, method, DESCRIBE, N_TOKENS)
        assert token_ids(out / name) == [answer.token_ids for answer in answers], name
    different = {json.dumps(token_ids(out / name)) for name in runs}
    assert len(different) == len(runs)


def test_run_json_holds_the_effective_settings(done):
    _, out = done
    settings = {path.parent.name: json.loads(path.read_text())["settings"] for path in out.glob("*/run.json")}
    assert "decoder" not in settings["greedy"] and "decoder" not in settings["adhh"]
    assert settings["adhh"]["interventions"][0]["threshold"] == 0.05
    decoder = settings["vcd_paper"]["decoder"]
    assert (decoder["name"], decoder["alpha"], decoder["beta"]) == ("vcd_paper", 2, 0.1)
    assert settings["dola_repo"]["decoder"]["variant"] == "textbook"
    assert settings["dola_repo"]["decoder"]["candidate_layers"] == "even"
    assert settings["tfhh_1"]["model"]["sha256"] != settings["tfhh_2"]["model"]["sha256"]


def test_summary_table_and_figure(done):
    _, out = done
    summary = json.loads((out / "summary.json").read_text())
    rows = ["greedy", *PRESETS, "adhh", "tfhh_1", "tfhh_2", "tfhh"]
    assert list(summary) == ["schema_version", "settings", "run", "methods"]
    methods = summary["methods"]
    assert list(methods) == rows
    assert methods["greedy"]["relative_time"] == 1
    for name in rows:
        assert methods[name]["relative_time"] > 0 and methods[name]["seconds_per_token"] > 0
        assert len(methods[name]["Bleu"]) == 4 and all(0 <= value <= 1 for value in methods[name]["Bleu"])
        assert ("minus_greedy" in methods[name]) == (name not in ("greedy", "tfhh"))
    result = json.loads((out / "vcd_paper" / "captions_eval_results.json").read_text())["overall_metrics"]
    assert methods["vcd_paper"]["CHAIRi"] == pytest.approx(result["CHAIRi"], abs=1e-5)
    assert methods["vcd_paper"]["Bleu"] == pytest.approx(result["Bleu"], abs=1e-5)
    assert summary["settings"]["methods"]["vcd_paper"]["decoder"]["alpha"] == 2
    table = (out / "summary.md").read_text()
    assert "| BLEU-4 % | time per token | p (CHAIR_i) | n |" in table
    assert "| TF-HH, mean of 2 seeds |" in table and "Holm over 48 tests (6 methods x 8 metrics: " in table
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


def test_times_of_finished_blocks_are_kept_after_a_kill(done, tmp_path):
    every, out = done
    shutil.copytree(out / "vcd_paper", tmp_path / "vcd_paper")
    times = seconds_per_token(Run(out / "vcd_paper"))
    (tmp_path / "vcd_paper" / "blocks" / "00001.json").unlink()
    (tmp_path / "vcd_paper" / "captions.jsonl").unlink()
    kept = every[: every.index("--methods")] + ["--methods", "vcd_paper", "--set", *OVERRIDES[:2]]
    evaluate.main([*kept, "--out", str(tmp_path)])
    again = seconds_per_token(Run(tmp_path / "vcd_paper"))
    assert (again[0], again[2]) == (times[0], times[2]) and again[1] != times[1]
    name = "vcd_paper/captions.jsonl"
    assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_times_are_of_the_images_that_are_compared(tmp_path):
    """A run that had more images before; of a batch that is cut, the time is not known."""

    def rows_of(*ids: int) -> list[dict]:
        return [{"image_id": number, "token_ids": [1], "finish_reason": "length"} for number in ids]

    for name, seconds in {"greedy": (1, 1, 1), "pai": (2, 8, 9)}.items():
        for number, second in enumerate(seconds):
            rows = rows_of(2 * number, 2 * number + 1)
            Run(tmp_path / name).finish_block(number, rows, rows, seconds=second)
        (tmp_path / name / "captions_eval_results.json").write_text('{"overall_metrics": {}}')
    all_images = rows_of(*range(6))
    for n_images, expected in ((6, 8), (3, 2), (2, 2)):
        costs = evaluate.costs_of(tmp_path, {"greedy": all_images, "pai": all_images[:n_images]}, batch_size=2)
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
    chosen = ["--methods", "vcd_paper", "adhh", "--set", *OVERRIDES[:2], "--out", str(tmp_path)]
    output = finish(launch(2, "baselines.evaluate", [*flags, *chosen]))
    assert output.count("| AD-HH |") == 1
    for name in ("greedy", "vcd_paper", "adhh"):
        assert (tmp_path / name / "captions.jsonl").read_bytes() == (out / name / "captions.jsonl").read_bytes()
    assert (tmp_path / "summary.png").exists()


NOWHERE = [
    (["--methods", "vcd"], "--methods vcd: no such method; choose some of: greedy, adhh, removal, tfhh, vcd_paper"),
    (["--methods", "greedy", "greedy"], "named more than once"),
    (["--methods", "vcd_paper", "--set", "vcd_paper.gamma=1"], "vcd_paper has no 'gamma'; it has alpha, beta"),
    (["--methods", "vcd_paper", "--set", "vcd_paper.beta=2"], "beta must be above 0 and at most 1, not 2"),
    (["--methods", "vcd_paper", "--set", "vcd_paper.alpha=much"], "alpha must be a number of at least 0, not 'much'"),
    (["--methods", "greedy", "--set", "vcd.alpha=1"], "no preset 'vcd'; there are vcd_paper, "),
    (["--methods", "vcd_paper", "--set", "alpha"], "expected preset.field=value"),
    (["--methods", "adhh", "--heads", "nowhere.json"], "nowhere.json"),
    (["--methods", "tfhh"], "--methods tfhh and --tfhh-model need each other"),
    (["--methods", "tfhh", "--tfhh-model", "nowhere"], "nowhere: no config.json there"),
    (["--methods", "greedy", "--model", "nowhere"], "nowhere: no config.json there"),
]


def one_line_error(flags: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(flags)
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


@pytest.mark.parametrize(("more", "message"), NOWHERE, ids=[" ".join(more[1:]) for more, _ in NOWHERE])
def test_wrong_flags_are_one_line_before_anything_is_written(more, message, flags, tmp_path, capsys):
    assert message in one_line_error([*flags, *more, "--out", str(tmp_path / "out")], capsys)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_weights(flags, tiny_checkpoint, tmp_path, capsys):
    shutil.copytree(tiny_checkpoint, tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    more = ["--methods", "tfhh", "--tfhh-model", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]
    assert "no weight files" in one_line_error([*flags, *more], capsys)
    assert not (tmp_path / "out").exists()


LATE = [
    (["--methods", "dola_repo", "--set", "dola_repo.candidate_layers=[0,9]"], "candidate_layers (0, 9) do not fit"),
    (["--methods", "adhh", "--top-k", "4"], "4"),
    (["--methods", "adhh", "--threshold", "2"], "threshold"),
]


@pytest.mark.parametrize(("more", "message"), LATE, ids=[" ".join(more[1:]) for more, _ in LATE])
def test_what_the_model_cannot_have_stops_before_any_captioning(more, message, flags, tmp_path, capsys):
    assert message in one_line_error([*flags, *more, "--out", str(tmp_path)], capsys)
    assert not list(tmp_path.glob("*/"))


def test_a_checkpoint_that_lacks_a_weight_stops_before_any_captioning(flags, tuned, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(tuned[0], broken)
    tensors = load_file(broken / "model.safetensors")
    del tensors[next(key for key in tensors if key.endswith("layers.1.self_attn.q_proj.weight"))]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    more = ["--methods", "vcd_paper", "tfhh", "--tfhh-model", str(broken), "--out", str(tmp_path / "out")]
    assert "weights missing" in one_line_error([*flags, *more], capsys)
    assert not list((tmp_path / "out").glob("*/"))


def test_a_folder_of_other_settings_stops_before_any_captioning(flags, done, tmp_path, capsys):
    _, out = done
    shutil.copytree(out / "vcd_paper", tmp_path / "vcd_paper")
    error = one_line_error([*flags, "--methods", "adhh", "vcd_paper", "--out", str(tmp_path)], capsys)
    assert "decoder.alpha was 2, is 1.0" in error
    assert [path.name for path in tmp_path.glob("*/")] == ["vcd_paper"]


def test_a_method_may_have_fewer_images(flags, tmp_path):
    few = [*flags, "--methods", "pai", "adhh", "--out", str(tmp_path), "--limit-of", "pai=3"]
    evaluate.main(few)
    summary = json.loads((tmp_path / "summary.json").read_text())
    methods = summary["methods"]
    assert {name: entry["n"] for name, entry in methods.items()} == {
        "greedy": 6,
        "greedy, first 3": 3,
        "pai": 3,
        "adhh": 6,
    }
    sentences = {
        name: json.loads((tmp_path / name / "captions_eval_results.json").read_text())["sentences"]
        for name in ("greedy", "pai")
    }
    assert methods["greedy, first 3"] | {"n": 3} == summarise(sentences["greedy"][:3])
    expected = methods["pai"]["CHAIRi"] - methods["greedy, first 3"]["CHAIRi"]
    assert methods["pai"]["minus_greedy"]["CHAIRi"]["difference"] == pytest.approx(expected, abs=2e-5)
    evaluate.main([*few, "--limit-of", "pai=5", "opera=3"])
    assert len((tmp_path / "pai" / "captions.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize("given", ["pai", "pai=0", "pai=-1", "operas=3", "greedy=3"])
def test_a_wrong_limit_is_one_line(flags, tmp_path, capsys, given):
    with pytest.raises(SystemExit) as stopped:
        evaluate.main([*flags, "--methods", "pai", "greedy", "--out", str(tmp_path / "new"), "--limit-of", given])
    assert stopped.value.code == 2
    assert f"--limit-of {given}: expected" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_published_list_is_the_models_own(flags, done, tmp_path, monkeypatch, capsys):
    lists = tmp_path / "heads"
    lists.mkdir()
    for name, n_heads, heads in (("other", 8, [[0, 0]]), ("ours", 4, HEADS)):
        about = {"model_type": "llava", "n_layers": 4, "n_heads": n_heads}
        (lists / f"{name}.json").write_text(json.dumps({"hal_heads": heads, **about}))
    monkeypatch.setattr("llava_hh.heads.PUBLISHED", lists)
    given = [*flags, "--methods", "adhh", "--out", str(tmp_path / "out"), "--heads", "published"]
    evaluate.main(given)
    assert token_ids(tmp_path / "out" / "adhh") == token_ids(done[1] / "adhh")
    (lists / "ours.json").unlink()
    with pytest.raises(SystemExit):
        evaluate.main(given)
    assert "none for a llava of 4 layers of 4 heads; there are other" in capsys.readouterr().err
