"""One of every result file, made by the verbs themselves on the tiny checkpoint."""

import json
import shutil
from pathlib import Path

import pytest

from llava_hh.__main__ import main
from llava_hh.finetuning.trainer import TargetedTrainer
from llava_hh.mini.made import is_made
from tests.faults.material import make_material

ASK = " Please answer yes or no."
AMBER = [
    {"id": 1, "type": "generative", "truth": ["dog", "cat"], "hallu": ["bus"]},
    {"id": 2, "type": "discriminative-attribute-state", "truth": "no"},
]


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def do(*words: object) -> None:
    main([str(word) for word in words])


def make_files(folder: Path) -> None:
    """Result files of all verbs in `folder`; what they read lies in a folder beside it."""
    given = folder.with_name("given")
    make_material(given)
    make_captions(given, folder)
    make_explanations(given, folder)
    make_comparisons(given, folder)
    make_figures(given, folder)
    make_scores(given, folder)
    do("export", "--heads", given / "heads.json", "--top-k", 2, "--out", folder / "export")
    train = ("--image-folder", given / "coco" / "train2014", "--annotations", given / "coco" / "annotations")
    few = ("--n-pairs", 3, "--copies", 2, "--out", folder / "vti" / "vectors.safetensors")
    do("prepare-vti", "--model", given / "model", *train, *few)


def make_captions(given: Path, folder: Path) -> None:
    """Captions, their scores, the attribution of all, of a shortlist and of a part; a fine-tuning."""
    truth = ("--annotations", given / "coco" / "annotations")
    train = ("--model", given / "model", "--image-folder", given / "coco" / "train2014")
    captions = folder / "captions"
    short = ("--split", "train2014", "--limit", 8, "--max-new-tokens", 6, "--batch-size", 2)
    do("caption", *train, *truth, *short, "--out", captions)
    do("score", "chair", "--captions", captions / "captions.jsonl", *truth, "--skip-bad")
    snapshot = given / "models--org--tiny" / "snapshots" / ("0" * 40)  # as the hub's cache has it
    shutil.copytree(given / "model", snapshot)
    of_hub = ("--model", snapshot, *train[2:], *truth, *short, "--limit", 1)
    do("caption", *of_hub, "--out", folder / "captions_of_the_hub")
    scored = ("--captions", captions / "captions_eval_results.json")
    words = (*train, *scored, "--batch-size", 2, "--limit", 6, "--list-length", 5)
    do("attribute", *words, "--out", folder / "attribution")
    of_reading = ("--by-source", "--direct", "--allpath", given / "coco" / "annotations")
    do("attribute", *words, *of_reading, "--out", folder / "by_source")
    row = {"image": next((given / "coco/train2014").iterdir()).name, "prompt": "what", "answer": "a cat and a dog cat"}
    (given / "labelled.jsonl").write_text(
        json.dumps(row | {"spans": [[2, 5, "hallucinated"], [12, 15, "true"], [16, 19, "true"]]}) + "\n"
    )
    labelled = ("--targets", given / "labelled.jsonl", "--match", "object", "--list-length", 5)
    do("attribute", *train, *labelled, "--tokens", "all", "--out", folder / "labelled")
    do("attribute", *train, *labelled, "--screen", 3, "--out", folder / "labelled_screened")
    do("attribute", *words, "--screen", 6, "--ablation", "noise", "--out", folder / "screened")
    do("attribute", *words, "--race", 3, "--out", folder / "raced")
    images = objects_of(scored[1])
    some = next(name for name in sorted(set().union(*images)) if any(name not in image for image in images))
    for flag in ("--with-object", "--without-object"):
        do("attribute", "--of", folder / "attribution", *scored, flag, some, "--out", folder / f"part{flag}")
    data = ("--data", given / "coco" / "instruct_train2014.json", "--image-folder", given / "coco")
    heads = ("--heads", given / "heads.json", "--top-k", 2)
    tuning = ("--steps", 4, "--batch-size", 4, "--save-every", 2, "--max-length", 40)
    tune = ("finetune", "--model", given / "model", *data, *heads, *tuning)
    for seed in (1, 2):
        do(*tune, "--seed", seed, "--out", folder / f"finetune_{seed}")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TargetedTrainer, "save_rows", interrupt)
        do(*tune, "--random-heads", 1, "--lm-head", "--log-every", 3, "--out", folder / "interrupted")
    is_made(folder / "weights.npz", "tune", {"heads": given / "heads.json"}, seed=1, step=20)


def make_explanations(given: Path, folder: Path) -> None:
    """A photo with the words that CHAIR finds, and with a word by name; captions of one's own."""
    photo = sorted((given / "coco" / "val2014").glob("*.jpg"))[0]
    heads = ("--heads", given / "heads.json", "--top-k", 2, "--threshold", 0.05, "--max-new-tokens", 6)
    explain = ("explain", photo, "--model", given / "model", *heads)
    do(*explain, "--out", folder / "explained")
    words = json.loads((folder / "explained" / "explanation.json").read_text())["captions"][0]["words"]
    do(*explain, "--words", words[0]["word"], "--truth", words[0]["node"], "--out", folder / "explained_word")
    captions = write_lines(given / "second.jsonl", [{"image_id": photo.name, "text": "A dog."}])
    do("score", "chair", "--captions", captions, "--truth", "dog", "--out", folder / "second_eval_results.json")


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def objects_of(scored: Path) -> list[set[str]]:
    """What is in the image of each scored caption."""
    return [set(entry["mscoco_gt_words"]) for entry in json.loads(scored.read_text())["sentences"]]


def make_comparisons(given: Path, folder: Path) -> None:
    """All tasks of `evaluate`, and what `compare` makes of finished runs."""
    truth = ("--annotations", given / "coco" / "annotations", "--limit", 4, "--max-new-tokens", 6, "--batch-size", 2)
    val = ("--image-folder", given / "coco" / "val2014", *truth, "--heads", given / "heads.json")
    start, polled = (("evaluate", "--model", given / name, *val) for name in ("model", "polled"))
    adhh, removal = "adhh:top_k=2,threshold=0.05", "removal:top_k=2"
    tuned = [f'tfhh:path="{folder}/finetune_{seed}/model"' for seed in (1, 2)]
    methods = (adhh, "adhh:top_k=1,threshold=0.5", f'random:draws=2,of="{adhh}"', *tuned, "vcd_paper", "opera:limit=2")
    out = folder / "evaluate"
    do(*start, "--choose", "--out", out, "--methods", *methods)
    scaled = ("scale:top_k=2,span=image,alpha=2", "random:draws=2,of=scale")
    do(*start, "--out", folder / "factors_of", "--methods", *scaled)
    other = given / "other.json"
    other.write_text(json.dumps({"hal_heads": [[1, 1], [2, 3]]}))
    lists = [f"{adhh},heads={path}" for path in (given / "heads.json", other)]
    choosing = ("--choosing-captions", folder / "captions" / "captions_eval_results.json")
    choosing += ("--choosing-images", given / "coco" / "train2014")
    do(*start, *choosing, "--out", folder / "lists", "--methods", *lists, f'random:draws=1,match=rate,of="{lists[0]}"')
    drawn = f'random:draws=1,of="{adhh}"'
    do(*polled, "--task", "pope", "--out", folder / "pope", "--methods", adhh, drawn, "vcd_paper")
    greedy = out / "greedy" / "captions_eval_results.json"
    first, second = objects_of(greedy)[:2]
    losses = (*start, "--task", "loss", "--captions", f"greedy={greedy}", "--captions-per-image", 2)
    do(*losses, "--with-object", *first, "--out", folder / "loss", "--methods", adhh, removal, "vcd_paper", drawn)
    do(*losses, "--without-object", min(second - first), "--out", folder / "loss_without", "--methods", adhh)
    runs = [path.parent for path in sorted(out.glob("*/captions.jsonl"))]
    of_kind = {kind: [run for run in runs if run.name.startswith(kind)] for kind in ("greedy", "adhh", "tfhh")}
    do("compare", "runs", *of_kind["greedy"], *of_kind["adhh"], "--out", folder / "comparison.json")
    seeds = ("--runs", *of_kind["tfhh"], "--reference", *of_kind["greedy"])
    do("compare", "seeds", *seeds, "--out", folder / "seeds.json")
    do("compare", "details", *of_kind["greedy"], *of_kind["adhh"], "--out", folder / "details")
    lists = [folder / name / "attribution_result.json" for name in ("attribution", "part--with-object")]
    do("compare", "heads", *lists, "--out", folder / "head_comparison.json")


def make_figures(given: Path, folder: Path) -> None:
    """Figures 3 to 6, word maps, the module level."""
    scored = ("--captions", folder / "captions" / "captions_eval_results.json")
    heads = ("--heads", given / "heads.json", "--top-k", 2)
    train = ("--model", given / "model", "--image-folder", given / "coco" / "train2014")
    words, paper = (*train, *scored, *heads, "--limit", 4, "--batch-size", 2), ("--paper-values",)
    do("figure", "bias", *words, *paper, "--out", folder / "bias")
    do("figure", "inheritance", *words, *paper, "--base-model", given / "base", "--out", folder / "inheritance")
    do("figure", "words", *words, "--out", folder / "words")
    steps = ("--reference", given / "model", "--checkpoints", given / "tuning" / "step-20")
    images = ("--image-folder", given / "coco" / "train2014")
    do("figure", "divergence", *steps, *scored, *heads, *images, *paper, "--out", folder / "divergence")
    do(
        "figure",
        "modules",
        "--attribution",
        folder / "attribution" / "attribution_result.json",
        "--out",
        folder / "modules",
    )
    summary = ("--summary", folder / "factors_of" / "summary.json", "--span", "image")
    do("figure", "factors", *summary, *paper, "--out", folder / "factors")


def make_scores(given: Path, folder: Path) -> None:
    """VQA, AMBER and MME, of files written here."""
    told = {"question_id": 1, "image_id": 5, "answer_type": "number", "answers": [{"answer": "2"}] * 10}
    truth = given / "vqa.json"
    truth.write_text(json.dumps({"annotations": [told]}))
    answers = write_lines(given / "vqa.jsonl", [{"question_id": 1, "text": "two"}])
    do("score", "vqa", "--answers", answers, "--truth", truth, "--out", folder / "vqa_results.json")
    amber, mme = given / "amber", given / "mme"
    amber.mkdir()
    (amber / "relation.json").write_text(json.dumps({"dog": ["puppy"], "cat": [], "bus": []}))
    (amber / "safe_words.txt").write_text("light")
    (amber / "annotations.json").write_text(json.dumps(AMBER))
    rows = [{"question_id": 1, "text": "A dog and a bus."}, {"question_id": 2, "text": "No"}]
    answers = write_lines(given / "amber.jsonl", rows)
    scored = ("--annotations", amber, "--out", folder / "amber_results.json")
    do("score", "benchmark", "--benchmark", "amber", "--answers", answers, *scored)
    rows = []
    for category in ("existence", "count", "position", "color"):
        (mme / category).mkdir(parents=True)
        asked = [f"Is there a {thing}?{ASK}" for thing in ("dog", "cat")]
        (mme / category / "1.txt").write_text(f"{asked[0]}\tYes\n{asked[1]}\tNo\n")
        rows += [{"question_id": f"{category}/1.jpg", "prompt": question, "text": "Yes"} for question in asked]
    answers = write_lines(given / "mme.jsonl", rows)
    scored = ("--annotations", mme, "--out", folder / "mme_results.json")
    do("score", "benchmark", "--benchmark", "mme", "--answers", answers, *scored)
