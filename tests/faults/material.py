"""What the scripts work on: tiny checkpoints, drawn images, finished steps that later ones read; and their flags."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from llava_hh.scripts import attribute, caption, evaluate, figure, finetune
from tests.support.instructions import write_instructions
from tests.support.tiny import IMAGE_TOKEN, tiny_llama
from tests.support.tiny_checkpoint import save_polled_checkpoint, save_tiny_checkpoint, write_tiny_coco
from tests.support.verbs import score_chair

HEADS = {"hal_heads": [[3, 1], [0, 2], [2, 2]], "non_hal_heads": [[1, 0], [2, 1], [3, 3]]}


@dataclass(frozen=True)
class Script:
    """A script and its flags without --out; `unlike` are files whose bytes may differ between two runs."""

    name: str
    main: Callable[[Sequence[str]], None]
    flags: tuple[object, ...]
    unlike: tuple[str, ...] = ()


def make_material(folder: Path) -> None:
    """Everything that `scripts` names, but for what other scripts make."""
    save_tiny_checkpoint(folder / "model")
    save_polled_checkpoint(folder / "model", folder / "polled")
    write_tiny_coco(folder / "coco")
    write_instructions(folder / "coco", "train2014")
    base = tiny_llama(n_kv=2, seed=7)
    base.resize_token_embeddings(IMAGE_TOKEN)
    base.save_pretrained(folder / "base")
    model = LlavaForConditionalGeneration.from_pretrained(folder / "model")
    with torch.no_grad():
        for weight in model.model.language_model.layers.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    shutil.copytree(folder / "model", folder / "tuning" / "step-20")
    model.save_pretrained(folder / "tuning" / "step-20")
    (folder / "heads.json").write_text(json.dumps(HEADS))


def steps_before(folder: Path) -> list[Script]:
    """What has to be there for the others, in order; these have their --out."""
    truth, out = ("--annotations", folder / "coco" / "annotations"), folder / "captions"
    return [
        Script("caption", caption.main, (*_images(folder, "train2014"), *truth, *_short("train2014"), "--out", out)),
        Script("score_chair", score_chair, ("--captions", out / "captions.jsonl", *truth)),
    ]


def scripts(folder: Path) -> list[Script]:
    """Every script that may run for hours, on small samples."""
    train, val = _images(folder, "train2014"), _images(folder, "val2014")
    truth = ("--annotations", folder / "coco" / "annotations")
    captions = ("--captions", folder / "captions" / "captions_eval_results.json")
    heads = ("--heads", folder / "heads.json", "--top-k", 2)
    small = ("--limit", 6, "--max-new-tokens", 6, "--batch-size", 2)
    few = (*val, *truth, *small)
    words = (*train, *captions, "--batch-size", 2)
    adhh, others = "adhh:top_k=2,threshold=0.05", "random:draws=1,of=adhh"
    listed = ("--heads", folder / "heads.json")
    tuning = ("--data", folder / "coco" / "instruct_train2014.json", "--image-folder", folder / "coco", "--steps", 6)
    # they say how long a token took
    timed = ("summary.json", "summary.md", "summary.png", "summary.pdf", "choice.json", "choice.png", "choice.pdf")
    few = (*few, *listed)
    split = ("--split", "train2014")
    scaled = "scale:alpha=0.5,top_k=2"
    return [
        Script("caption", caption.main, (*train, *truth, *_short("train2014"))),
        Script("attribute", attribute.main, (*words, "--limit", 6, "--list-length", 5)),
        Script("attribute --screen", attribute.main, (*words, "--limit", 6, "--list-length", 5, "--screen", 6)),
        Script("attribute --race", attribute.main, (*words, "--limit", 6, "--list-length", 5, "--race", 3)),
        Script("evaluate", evaluate.main, (*few, "--methods", adhh, others), timed),
        Script(
            "choice",
            evaluate.main,
            (*train, *truth, *small, *split, *listed, "--methods", adhh, "adhh:top_k=1,threshold=0.5", "--choose"),
            timed,
        ),
        Script("decoders", evaluate.main, (*few, "--methods", adhh, "vcd_paper", f"dola_repo+{adhh}", "pai"), timed),
        Script(
            "pope",
            evaluate.main,
            (*few, "--model", folder / "polled", "--task", "pope", "--methods", adhh, "removal:top_k=2"),
        ),
        Script(
            "removal",
            evaluate.main,
            (*few, "--methods", "removal:top_k=2", "random:draws=1,of=removal", "adhh:top_k=2,threshold=0.2"),
            timed,
        ),
        Script(
            "finetune",
            finetune.main,
            ("--model", folder / "model", *heads, *tuning, "--batch-size", 4, "--save-every", 2, "--max-length", 40),
        ),
        Script("attention_bias", figure.main, ("bias", *words, *heads, "--limit", 6)),
        Script(
            "attention_inheritance",
            figure.main,
            ("inheritance", *words, *heads, "--limit", 6, "--base-model", folder / "base"),
        ),
        Script(
            "js_divergence",
            figure.main,
            (
                "divergence",
                *("--reference", folder / "model", "--checkpoints", folder / "tuning" / "step-20", *heads, *captions),
                *("--image-folder", folder / "coco" / "train2014"),
            ),
        ),
        Script("factors", evaluate.main, (*few, "--methods", scaled, f'random:draws=1,of="{scaled}"'), timed),
        Script(
            "reference_loss",
            evaluate.main,
            (*few, "--task", "loss", "--methods", adhh, others, "--captions-per-image", 2),
        ),
        Script("record_words", figure.main, ("words", *words, *heads, "--limit", 4)),
    ]


def _images(folder: Path, split: str) -> tuple[object, ...]:
    return ("--model", folder / "model", "--image-folder", folder / "coco" / split)


def _short(split: str) -> tuple[object, ...]:
    return ("--split", split, "--limit", 8, "--max-new-tokens", 6, "--batch-size", 2)
