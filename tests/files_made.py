"""One of every result file, made by the verbs themselves on the tiny checkpoint."""

import json
from pathlib import Path

from tiny_checkpoint import SINGLE_WORDS
from tiny_material import make_material

from llava_hh.__main__ import main

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
    make_comparisons(given, folder)
    make_figures(given, folder)
    make_scores(given, folder)
    do("export", "--heads", given / "heads.json", "--top-k", 2, "--out", folder / "export")


def make_captions(given: Path, folder: Path) -> None:
    """Captions, their scores, the attribution of all, of a shortlist and of a part; a fine-tuning."""
    truth = ("--annotations", given / "coco" / "annotations")
    train = ("--model", given / "model", "--image-folder", given / "coco" / "train2014")
    captions = folder / "captions"
    short = ("--split", "train2014", "--limit", 8, "--max-new-tokens", 6, "--batch-size", 2)
    do("caption", *train, *truth, *short, "--out", captions)
    do("score", "chair", "--captions", captions / "captions.jsonl", *truth, "--skip-bad")
    scored = ("--captions", captions / "captions_eval_results.json")
    words = (*train, *scored, "--batch-size", 2, "--limit", 6, "--list-length", 5)
    do("attribute", *words, "--out", folder / "attribution")
    do("attribute", *words, "--screen", 6, "--ablation", "noise", "--out", folder / "screened")
    do("attribute", *words, "--race", 3, "--out", folder / "raced")
    sentences = json.loads(scored[1].read_text())["sentences"]
    [some, *_] = [o for o in SINGLE_WORDS if 0 < sum(o in e["mscoco_gt_words"] for e in sentences) < len(sentences)]
    for flag in ("--with-object", "--without-object"):
        do("attribute", "--of", folder / "attribution", *scored, flag, some, "--out", folder / f"part{flag}")
    data = ("--data", given / "coco" / "instruct_train2014.json", "--image-folder", given / "coco")
    heads = ("--heads", given / "heads.json", "--top-k", 2)
    tuning = ("--steps", 4, "--batch-size", 4, "--save-every", 2, "--max-length", 40)
    for seed in (1, 2):
        out = folder / f"finetune_{seed}"
        do("finetune", "--model", given / "model", *data, *heads, *tuning, "--seed", seed, "--out", out)


def make_comparisons(given: Path, folder: Path) -> None:
    """All tasks of `evaluate`, and what `compare` makes of finished runs."""
    truth = ("--annotations", given / "coco" / "annotations", "--limit", 4, "--max-new-tokens", 6, "--batch-size", 2)
    val = ("--model", given / "model", "--image-folder", given / "coco" / "val2014", *truth)
    heads = ("--heads", given / "heads.json")
    tuned = [f'tfhh:path="{folder}/finetune_{seed}/model"' for seed in (1, 2)]
    adhh = (
        "adhh:top_k=2,threshold=0.05",
        "adhh:top_k=1,threshold=0.5",
        'random:draws=2,of="adhh:top_k=2,threshold=0.05"',
    )
    scaled = ("scale:top_k=2,span=image,alpha=2", "random:draws=2,of=scale")
    out = folder / "evaluate"
    do("evaluate", *val, *heads, "--choose", "--out", out, "--methods", *adhh, *tuned, "vcd_paper", "opera:limit=2")
    do("evaluate", *val, *heads, "--out", folder / "factors_of", "--methods", *scaled)
    polled = ("--model", given / "polled", *val[2:])
    do("evaluate", *polled, *heads, "--task", "pope", "--out", folder / "pope", "--methods", adhh[0], "vcd_paper")
    scores = ("--captions", f"greedy={out}/greedy/captions_eval_results.json", "--captions-per-image", 2)
    do(
        "evaluate",
        *val,
        *heads,
        "--task",
        "loss",
        "--out",
        folder / "loss",
        *scores,
        "--methods",
        adhh[0],
        "removal:top_k=2",
    )
    runs = [path.parent for path in sorted(out.glob("*/captions.jsonl"))]
    of_kind = {kind: [run for run in runs if run.name.startswith(kind)] for kind in ("greedy", "adhh", "tfhh")}
    do("compare", "runs", *of_kind["greedy"], *of_kind["adhh"], "--out", folder / "comparison.json")
    seeds = ("--runs", *of_kind["tfhh"], "--reference", *of_kind["greedy"])
    do("compare", "seeds", *seeds, "--out", folder / "seeds.json")
    do("compare", "details", *of_kind["greedy"], *of_kind["adhh"], "--out", folder / "details")
    part = folder / "part--with-object" / "attribution_result.json"
    do("compare", "heads", folder / "attribution" / "attribution_result.json", part, "--out", folder / "head_comparison.json")


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
