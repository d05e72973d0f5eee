"""What the harness does alike for every task: rows of a direct computation, reruns, kills, processes, refusals."""

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import DeactivateText, ZeroHeads
from llava_hh.data.coco import load_annotations, load_image_list
from llava_hh.data.sample import sample_images
from llava_hh.decoding.generation import answer_samples
from llava_hh.decoding.method import Greedy
from llava_hh.experiments.measures.reference_loss import reference_tokens
from llava_hh.files.images import load_image
from llava_hh.heads import Head
from llava_hh.models.lvlm import DESCRIBE, load_lvlm
from tests.support.decoding import preset
from tests.support.harness import HEADS, N_TOKENS, Harnessed, one_line_error, rows_in, token_ids
from tests.support.slow_losses import slow_losses
from tests.support.tiny_checkpoint import N_WORDS
from tests.support.tiny_results import of_kind

KINDS = ("random", "popular", "adversarial")
END = 2
Rows = Iterator[tuple[Path, list[dict], list[dict]]]  # a folder, its rows in part, and what these should be


def keep(rows: list[dict], *keys: str) -> list[dict]:
    return [{key: row[key] for key in keys} for row in rows]


def direct_captions(run: Harnessed, coco: Path) -> Rows:
    """All images in one batch."""
    samples = sample_images(load_image_list(coco / "annotations" / "captions_val2014.json"), 6, 42)
    images = [load_image(coco / "val2014" / sample["file_name"]) for sample in samples]
    lvlm, tuned = (
        load_lvlm(run.model),
        [text.split('"')[1] for text in run.methods[-2:]],
    )
    methods = {
        "greedy": Greedy(),
        "vcd_paper": preset("vcd_paper", alpha=2, noise_step=999),
        "dola_repo": preset("dola_repo", variant="textbook"),
        "pai": preset("pai"),
        "adhh": Greedy((DeactivateText(HEADS[:2], 0.05),)),
    }
    cases = [(of_kind(run.out, kind), lvlm, method) for kind, method in methods.items()]
    named = [name for name, entry in run.read_result()["methods"].items() if entry.get("kind") == "tfhh"]
    cases += [(run.out / name, load_lvlm(path), Greedy()) for name, path in zip(named, tuned, strict=True)]
    for folder, model, method in cases:
        answers = answer_samples(model, samples, images, method, DESCRIBE, N_TOKENS).answers
        rows = keep(rows_in(folder, run.rows), "image_id", "token_ids")
        expected = [(sample["image_id"], answer.token_ids) for sample, answer in zip(samples, answers, strict=True)]
        yield folder, rows, [dict(zip(("image_id", "token_ids"), pair, strict=True)) for pair in expected]
    assert len({json.dumps(token_ids(folder)) for folder, *_ in cases}) == len(cases) == 7


def direct_answers(run: Harnessed, coco: Path) -> Rows:
    """One question at a time: generate, and softmax over the whole vocabulary of one forward pass."""
    lvlm = load_lvlm(run.model)
    edits = {"greedy": [], "adhh": [DeactivateText(HEADS[:2], 0.05)], "removal": [ZeroHeads(HEADS[:2])]}
    for name, kind in ((name, kind) for name in edits for kind in KINDS):
        asked, expected = rows_in(run.out, f"questions_{kind}.jsonl"), []
        for question in asked:
            prompt = question["text"] + "\nAnswer the question using a single word or phrase."
            batch = lvlm.encode([load_image(coco / "val2014" / question["image"])], [prompt])
            with torch.no_grad(), intervene(lvlm.model, batch.image_mask, edits[name]):
                p = lvlm.model(**batch.inputs).logits[0, -1].softmax(-1)
                ids = lvlm.model.generate(**batch.inputs, max_new_tokens=3, do_sample=False)[0]
            ids = list(takewhile(lambda token: token != END, ids[batch.inputs["input_ids"].shape[1] :].tolist()))
            yes, no = p[N_WORDS] + p[N_WORDS + 1], p[N_WORDS + 2] + p[N_WORDS + 3]
            row = question | {"prompt": prompt, "token_ids": ids, "answer": lvlm.tokenizer.decode(ids)}
            expected.append(row | {"p_yes": float(yes / (yes + no)), "answer_by_logits": "yes" if yes > no else "no"})
        assert len(asked) == 24
        shares = [row["p_yes"] for row in expected]
        assert max(shares) - min(shares) > 0.1
        folder = of_kind(run.out, name) / kind
        yield folder, keep(rows_in(folder, run.rows), *expected[0]), expected


def direct_losses(run: Harnessed, coco: Path) -> Rows:
    """One caption at a time by eager maps and cached steps."""
    lvlm, heads = load_lvlm(run.model), [Head(0, 1), Head(1, 2)]
    files = {row["image_id"]: row["file_name"] for row in load_image_list(coco / "annotations/captions_val2014.json")}
    for kind, edits in {"greedy": [], "adhh": [DeactivateText(heads, 0.3)], "removal": [ZeroHeads(heads)]}.items():
        folder, expected = of_kind(run.out, kind), []
        rows = keep(rows_in(folder, run.rows), "image_id", "caption", "n_tokens", "nats")
        references = load_annotations(coco / "annotations", [row["image_id"] for row in rows])
        for row in rows:
            texts = [references[row["image_id"]].captions[row["caption"]]]
            response = reference_tokens(lvlm, texts, 9)
            (nats,), _ = slow_losses(lvlm, [load_image(coco / "val2014" / files[row["image_id"]])], response, edits)
            expected.append(row | {"n_tokens": len(response[0]), "nats": nats})
        assert len(rows) == 10
        yield folder, rows, expected
    [tuned] = [name for name, entry in run.read_result()["methods"].items() if entry["label"].startswith("TF-HH")]
    assert rows_in(run.out / tuned, run.rows) == rows_in(run.out / "greedy", run.rows)  # the same weights


DIRECT: dict[str, Callable[[Harnessed, Path], Rows]] = {
    "chair": direct_captions,
    "pope": direct_answers,
    "loss": direct_losses,
}


def test_rows_are_those_of_a_direct_computation(run, tiny_coco):
    for folder, rows, expected in DIRECT[run.task](run, tiny_coco):
        assert len(rows) == len(expected), folder
        for row, own in zip(rows, expected, strict=True):
            numbers = {key: value for key, value in own.items() if isinstance(value, float)}
            assert {key: row[key] for key in numbers} == pytest.approx(numbers, rel=1e-5, abs=1e-4), folder
            assert row | numbers == own, folder


def written_at(out: Path) -> dict[str, int]:
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.glob("**/blocks/*.json")}


def test_a_rerun_repeats_nothing(run):
    before, rows, result = written_at(run.out), run.row_files(), run.read_result()
    run.evaluate(run.out)
    assert len(before) == run.n_blocks and written_at(run.out) == before and run.row_files() == rows
    assert {**run.read_result(), "run": None} == {**result, "run": None}


TIMES = ("seconds_per_token", "relative_time")


def without_times(methods: dict) -> dict:
    return {name: {key: own for key, own in entry.items() if key not in TIMES} for name, entry in methods.items()}


def test_a_killed_run_goes_on_and_leaves_the_same(run, tmp_path):
    """Times of the finished blocks are kept with them."""
    shutil.copytree(run.out, tmp_path, dirs_exist_ok=True)
    folder = of_kind(tmp_path, "adhh") / (KINDS[0] if run.task == "pope" else "")
    redone = str((folder / "blocks/00001.json").relative_to(tmp_path))
    for path in (tmp_path / redone, folder / run.rows, tmp_path / run.result):
        path.unlink()
    shutil.rmtree(of_kind(tmp_path, "vcd_paper" if run.task == "chair" else "removal"))
    kept = written_at(tmp_path)
    run.evaluate(tmp_path)
    assert written_at(tmp_path).items() >= kept.items() and redone not in kept
    assert written_at(tmp_path).keys() == written_at(run.out).keys()
    assert run.row_files(tmp_path) == run.row_files()
    assert without_times(run.read_result(tmp_path)["methods"]) == without_times(run.read_result()["methods"])


def test_two_processes_leave_the_same_rows(run, run_by_two):
    (folder, output), kinds = (run_by_two[0][run.task], run_by_two[1]), ("vcd_paper", "adhh")
    rows = run.row_files(folder)
    asked = {kind for kind in kinds if any(text.startswith(kind) for text in run.methods)}
    assert {name.split("/")[0].split("-")[0] for name in rows} == {"greedy", *asked}
    assert rows.items() <= run.row_files().items()
    table = (folder / run.result).with_suffix(".md").read_text()
    assert output.count(table.splitlines()[-1]) == 1
    assert run.task != "chair" or (folder / "summary.png").exists()


CHANGED = [
    ("chair", ["--max-new-tokens", "9"], "max_new_tokens was 8, is 9"),
    ("pope", ["--suffix", "none"], "suffix was 'llava', is 'none'"),
    ("pope", ["--seed", "7"], "draw.seed was 42, is 7"),
    ("pope", ["--max-new-tokens", "4"], "max_new_tokens was 3, is 4"),
    ("loss", ["--captions-per-image", "1"], "captions_per_image was 2, is 1"),
]


@pytest.mark.parametrize(("task", "flags", "message"), CHANGED)
def test_a_folder_of_other_settings_stops_before_any_work(task, flags, message, request, tmp_path, capsys):
    """That folder is the last method's; those before it would be begun."""
    run = request.getfixturevalue(f"{task}_run")
    *before, last = (path.name for path in run.out.glob("*/") if path.name in run.read_result()["methods"])
    shutil.copytree(run.out, tmp_path, dirs_exist_ok=True)
    for name in before:
        shutil.rmtree(tmp_path / name)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert message in one_line_error([*run.flags, "--methods", *run.methods, "--out", tmp_path, *flags], capsys)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert [path.name for path in tmp_path.glob("*/")] == [last]


WRONG_METHODS = [
    (["vcd"], "no kind of method 'vcd'; did you mean vcd_paper? there are greedy, adhh, removal"),
    (["greedy", "greedy"], "method 'greedy': it is named more than once"),
    (["vcd_paper:gamma=1"], "no field of vcd_paper 'gamma'; "),
    (["vcd_paper:gain=1"], "there are alpha, beta"),
    (["vcd_paper:beta=2"], "beta must be above 0 and at most 1, not 2"),
    (["vcd_paper:alpha=much"], "alpha must be a number of at least 0, not 'much'"),
    (["vcd_paper:alpha"], "'alpha' is no field=value"),
    (["adhh", "--heads", "nowhere.json"], "nowhere.json"),
    (["adhh:heads=nowhere.json"], "nowhere.json"),
    (["pai+adhh:heads=nowhere.json"], "nowhere.json"),
    (["random:of=removal", "--heads", "nowhere.json"], "nowhere.json"),
    (["random:of=remove"], "no kind of method 'remove'; did you mean removal?"),
    (["tfhh"], 'needs path="FOLDER"'),
    (["tfhh:path=nowhere"], "nowhere: no config.json there"),
    (["greedy", "--model", "nowhere"], "nowhere: no config.json there"),
    (["pai:limit"], "'limit' is no field=value"),
    (["pai:limit=0"], "limit: expected a whole number of at least 1"),
    (["pai:limit=-1"], "limit: expected a whole number of at least 1"),
    (["pai:limit=all"], "limit: expected a whole number of at least 1"),
    (["operas:limit=3"], "no kind of method 'operas'; did you mean opera?"),
    (["greedy:limit=3"], "greedy decoding has all images"),
]
# task, what is said beside its flags, the error
EARLY = [
    *(("chair", ["--methods", *said], message) for said, message in WRONG_METHODS),
    ("pope", ["--methods", "pai:limit=3"], "method 'pai:limit=3': limit goes with --task chair, not pope"),
    ("loss", ["--methods", "removal:limit=3"], "method 'removal:limit=3': limit goes with --task chair, not loss"),
    ("loss", ["--methods", "removal", "--choose"], "--choose: belongs to --task chair, not loss"),
    ("pope", ["--methods", "pope"], "no kind of method 'pope'"),
    ("pope", ["--dataset", "nocaps"], "--task pope asks about COCO's images; leave --dataset"),
]
LATE = [
    ("chair", ["--methods", 'dola_repo:candidate_layers="[0,9]"'], "candidate_layers (0, 9) do not fit"),
    ("chair", ["--methods", "adhh:top_k=4"], "4"),
    ("chair", ["--methods", "adhh:top_k=2,threshold=2"], "threshold"),
    ("loss", ["--methods", "adhh:top_k=9"], "'hal_heads' has 4 heads, 9 were asked for"),
    ("pope", ["--questions", "nowhere"], "nowhere"),
    ("loss", ["--captions", "greedy"], "--captions greedy: expected METHOD=FILE"),
    ("loss", ["--captions", "greedy=/nowhere/x.json"], "/nowhere/x.json"),
    ("loss", ["--captions", "pai={captions}", "--methods", "pai"], "--captions pai=...: METHOD must be one of: greedy"),
]


@pytest.mark.parametrize(("task", "said", "message"), EARLY, ids=[" ".join([task, *said]) for task, said, _ in EARLY])
def test_wrong_flags_are_one_line_before_anything_is_written(task, said, message, request, tmp_path, capsys):
    run = request.getfixturevalue(f"{task}_run")
    assert message in one_line_error([*run.flags, *said, "--out", tmp_path / "out"], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("task", "said", "message"), LATE, ids=[" ".join([task, *said]) for task, said, _ in LATE])
def test_what_model_and_files_cannot_have_stops_before_any_work(
    task, said, message, request, scored_captions, tmp_path, capsys
):
    run, said = request.getfixturevalue(f"{task}_run"), [text.format(captions=scored_captions) for text in said]
    assert message in one_line_error([*run.flags, *said, "--out", tmp_path], capsys)
    assert not list(tmp_path.glob("*/"))


def test_no_head_list_is_one_line_before_anything_is_written(chair_run, tmp_path, capsys):
    without = [*chair_run.flags, "--out", tmp_path / "out", "--methods", "removal"]
    index = without.index("--heads")
    del without[index : index + 2]
    assert "needs heads=FILE, or --heads" in one_line_error(without, capsys)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_weights(chair_run, tiny_checkpoint, tmp_path, capsys):
    shutil.copytree(tiny_checkpoint, tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    more = ["--methods", f'tfhh:path="{tmp_path / "empty"}"', "--out", tmp_path / "out"]
    assert "no weight files" in one_line_error([*chair_run.flags, *more], capsys)
    assert not (tmp_path / "out").exists()


def test_a_model_without_words_for_yes_and_no(pope_run, tiny_checkpoint, tmp_path, capsys):
    wordless = [*pope_run.flags, "--model", tiny_checkpoint, "--out", tmp_path / "wordless"]
    assert "no token for the word yes" in one_line_error(wordless, capsys)


@pytest.mark.parametrize(("lacks", "message"), [(True, "weights missing"), (False, "weights of another shape")])
def test_a_checkpoint_of_wrong_weights_stops_before_any_captioning(
    lacks, message, chair_run, tiny_checkpoint, tmp_path, capsys
):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    tensors = load_file(broken / "model.safetensors")
    name = next(key for key in tensors if key.endswith("layers.1.self_attn.q_proj.weight"))
    weight = tensors.pop(name)
    if not lacks:
        tensors[name] = weight[1:].clone()
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    more = ["--methods", "vcd_paper", f'tfhh:path="{broken}"', "--out", tmp_path / "out"]
    assert message in one_line_error([*chair_run.flags, *more], capsys)
    assert not list((tmp_path / "out").glob("*/"))


def test_other_settings_of_a_method_have_their_own_folder(chair_run, tmp_path):
    """Neither is refused nor captions greedy decoding again."""
    shutil.copytree(chair_run.out, tmp_path, dirs_exist_ok=True)
    kept = written_at(tmp_path)
    chair_run.evaluate(tmp_path, methods=["vcd_paper:alpha=1.5,noise_step=999"])
    assert kept and kept.items() <= written_at(tmp_path).items()
    first, other = sorted(tmp_path.glob("vcd_paper-*"))
    assert token_ids(first) != token_ids(other)
    assert len(chair_run.read_result(tmp_path)["methods"]) == 2
