"""Our models under lmms-eval: one small offline task by its own command line, where lmms-eval can be imported.

LMMS_EVAL_PYTHON may name an interpreter that has it, for it pulls torchvision and much else.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import DeactivateText, ZeroHeads
from llava_hh.baselines import pai
from llava_hh.baselines.lmms_eval_model import HallucinationHeadsModel, check_settings, cut_at
from llava_hh.decoding.method import Edits, generate_greedily
from llava_hh.heads import Head
from llava_hh.models.lvlm import load_lvlm
from tests.support.repository import ROOT

HEADS = [Head(1, 0), Head(2, 2), Head(3, 1)]
TASK = """
task: tiny_objects
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.picture
doc_to_text: "{{question}}"
doc_to_target: "object"
generation_kwargs: {max_new_tokens: 12, do_sample: false, until: []}
process_results: !function utils.is_named
metric_list:
  - {metric: named, aggregation: mean, higher_is_better: true}
"""
UTILS = """
from PIL import Image

def picture(doc):
    return [Image.open(doc["image"])]

def is_named(doc, results):
    return {"named": float(doc["object"] in results[0])}
"""


@pytest.fixture(scope="module")
def interpreter() -> str:
    python = os.environ.get("LMMS_EVAL_PYTHON", sys.executable)
    look = [python, "-c", "import importlib.util, sys; sys.exit(importlib.util.find_spec('lmms_eval') is None)"]
    if subprocess.run(look, check=False).returncode:
        pytest.skip(f"{python} has no lmms_eval; LMMS_EVAL_PYTHON names an interpreter that has it")
    return python


@pytest.fixture
def heads_file(tmp_path: Path) -> Path:
    path = tmp_path / "heads.json"
    path.write_text(json.dumps({"hal_heads": HEADS}))
    return path


def write_task(folder: Path, pictures: list[Path]) -> list[dict]:
    questions = ["describe the dog", "describe", "a cat and the dog", "describe a", "the dog"]
    rows = [
        {"image": str(picture), "question": question, "object": "dog"}
        for picture, question in zip(pictures, questions, strict=False)
    ]
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tiny_objects.yaml").write_text(TASK.replace("rows.jsonl", str(folder / "rows.jsonl")))
    (folder / "utils.py").write_text(UTILS)
    return rows


def test_lmms_eval_runs_adhh(interpreter, tiny_checkpoint, tiny_coco, heads_file, tmp_path):
    rows = write_task(tmp_path / "task", sorted((tiny_coco / "val2014").glob("*.jpg"))[:5])
    # the entry point of setup.py, as an installation leaves it
    setup = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(setup, cwd=ROOT, check=True, capture_output=True)
    model_args = f"model={tiny_checkpoint},method=adhh,heads={heads_file},top_k=3,threshold=0.4"
    command = [interpreter, "-m", "lmms_eval", "--model", "llava_hh", "--model_args", model_args]
    command += ["--tasks", "tiny_objects", "--include_path", str(tmp_path / "task"), "--batch_size", "2"]
    command += ["--output_path", str(tmp_path / "out"), "--log_samples"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_HOME": str(tmp_path / "hub"), "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout[-4000:])
    assert done.returncode == 0, done.stderr[-4000:]
    (samples,) = (tmp_path / "out").rglob("*samples_tiny_objects.jsonl")
    logged = {entry["doc_id"]: entry for entry in map(json.loads, samples.read_text().splitlines())}
    (results,) = (tmp_path / "out").rglob("*results.json")
    lvlm, expected = load_lvlm(tiny_checkpoint), []
    for pair in (rows[:2], rows[2:4], rows[4:]):
        images = [Image.open(row["image"]).convert("RGB") for row in pair]
        batch = lvlm.encode(images, [row["question"] for row in pair])
        with intervene(lvlm.model, batch.image_mask, [DeactivateText(tuple(HEADS), 0.4)]) as trace:
            answers = generate_greedily(lvlm, batch, 12)
        assert sum(each.fired for each in trace.fired.values()) > 0
        expected += [lvlm.answer_text(answer.token_ids) for answer in answers]
    assert [logged[number]["filtered_resps"] for number in range(5)] == expected
    named = json.loads(results.read_text())["results"]["tiny_objects"]["named,none"]
    assert named == sum("dog" in text for text in expected) / 5


def request(question: str, visual: object, number: int = 0, **settings) -> SimpleNamespace:
    """As lmms-eval's Instance; the picture is found through the model's task_dict."""
    return SimpleNamespace(args=(question, settings, lambda doc: doc["picture"], number, "task", "test"))


def answer(model: HallucinationHeadsModel, pictures: list, requests: list) -> list[str]:
    model.task_dict = {"task": {"test": [{"picture": picture} for picture in pictures]}}
    return model.generate_until(requests)


def test_answers_keep_their_order_and_their_settings(tiny_checkpoint):
    model, lvlm = HallucinationHeadsModel(str(tiny_checkpoint), batch_size="2"), load_lvlm(tiny_checkpoint)
    pictures = [[Image.new("RGB", (9, 9), color)] for color in ("red", "blue", "white")] + [[]]
    lengths, questions = [4, 9, 4, 4], ["describe", "describe the dog", "a cat", "the dog"]
    requests = [request(questions[n], pictures[n], n, max_new_tokens=lengths[n]) for n in range(4)]
    expected = []
    for picture, question, length in zip(pictures, questions, lengths, strict=True):
        batch = lvlm.encode([picture[0] if picture else None], [question])
        expected.append(lvlm.answer_text(generate_greedily(lvlm, batch, length)[0].token_ids))
    assert answer(model, pictures, requests) == expected
    assert len(expected[1].split()) > len(expected[0].split())
    word = expected[1].split()[3]
    cut = answer(model, pictures, [request(questions[1], None, 1, max_new_tokens=9, until=[word])])
    assert cut == [expected[1].split(word)[0]]


def test_each_method_answers_as_it_does_elsewhere(tiny_checkpoint, heads_file):
    lvlm, picture = load_lvlm(tiny_checkpoint), Image.new("RGB", (9, 9), "red")
    batch = lvlm.encode([picture], ["describe"])
    tokens = {
        "greedy": generate_greedily(lvlm, batch, 12)[0].token_ids,
        "adhh": generate_greedily(lvlm, batch, 12, [DeactivateText(tuple(HEADS), 0.3)])[0].token_ids,
        "removal": generate_greedily(lvlm, batch, 12, [ZeroHeads(tuple(HEADS))])[0].token_ids,
        "pai": pai.decode(lvlm, batch, pai.PRESETS["pai"], 12)[0],
        "pai:alpha=2.5": pai.decode(lvlm, batch, pai.PaiSettings(alpha=2.5), 12)[0],
        "pai+adhh": pai.decode(lvlm, batch, pai.PRESETS["pai"], 12, Edits((DeactivateText(tuple(HEADS), 0.3),)))[0],
    }
    assert len({tuple(ids) for ids in tokens.values()}) == 6, "each method says something of its own"
    for method, ids in tokens.items():
        model = HallucinationHeadsModel(str(tiny_checkpoint), method, str(heads_file), top_k=3, threshold=0.3)
        assert answer(model, [[picture]], [request("describe", None, max_new_tokens=12)]) == [lvlm.answer_text(ids)]


def test_what_cannot_be_is_one_line(tiny_checkpoint, heads_file):
    path = str(tiny_checkpoint)
    for settings, message in (
        ({"method": "greed"}, "no kind of method 'greed'"),
        ({"method": "adhh"}, "needs heads"),
        ({"method": "random:of=adhh"}, "expected one method"),
        ({"method": "removal", "heads": str(heads_file), "top_k": 9}, "has 3 heads"),
        ({"method": "adhh", "heads": str(heads_file), "top_k": 3, "threshold": 2.0}, "must lie in"),
    ):
        with pytest.raises(ValueError, match=message):
            HallucinationHeadsModel(path, **settings)
    model = HallucinationHeadsModel(path, method="removal", heads=str(heads_file), top_k=3)
    two = [Image.new("RGB", (9, 9))] * 2
    for picture, settings, message in (
        (two, {}, "task task, row 0: has Image, Image"),
        (["film.mp4"], {}, "has str"),
        (two[:1], {"temperature": 0.7}, "temperature=0.7"),
        (two[:1], {"num_beams": 5}, "num_beams=5"),
    ):
        with pytest.raises(ValueError, match=message):
            answer(model, [picture], [request("describe", None, **settings)])
    with pytest.raises(NotImplementedError, match="scores given text"):
        model.loglikelihood([])


def test_until_and_greedy_settings():
    assert cut_at("a dog. And\n\na cat", "\n\n") == "a dog. And"
    assert cut_at("a dog. And\n\na cat", ["\n\n", ". "]) == "a dog"
    assert cut_at("a dog", ["", "x"]) == cut_at("a dog", None) == "a dog"
    check_settings({"do_sample": False, "temperature": 0, "top_p": 1.0, "num_beams": 1, "until": []})
