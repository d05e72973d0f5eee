"""Answers of a file scored by AMBER or by MME's hallucination subset, from these benchmarks' published files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_hh.data.amber import load_amber
from llava_hh.data.mme import load_mme, plain_question
from llava_hh.files.ids import whole_id
from llava_hh.metrics.amber import score_amber
from llava_hh.metrics.mme import CATEGORIES, score_mme
from llava_hh.scoring.answers import read_texts, text_of
from llava_hh.scoring.result import see_writable, write_scores


def read_answers(path: Path, benchmark: str) -> dict[Any, str]:
    """The text of each answer, by AMBER's query id or by (category, image, question) of MME.

    Rows are those of captions.jsonl, or of LLaVA's answer files: `question_id` is AMBER's id, or such as
    `existence/000000006040.jpg`, with the question in `prompt`. Rows of MME's other categories are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no row, a row without an id or a text, or a repeated one; one line that names it.
    """
    answers = read_texts(path, READERS[benchmark], "JSON lines, one answer a row (--answers)")
    if not answers:
        raise ValueError(f"--answers {path}: no answer to score; expected at least one row")
    return answers


def _of_amber(row: dict) -> tuple[int, str]:
    return whole_id(row.get("question_id"), "'question_id'"), text_of(row, "text")


def _of_mme(row: dict) -> tuple[tuple[str, str, str], str] | None:
    question_id, prompt, text = (text_of(row, key) for key in ("question_id", "prompt", "text"))
    category, image = next(iter(Path(question_id).parts), ""), Path(question_id).stem
    return ((category, image, plain_question(prompt)), text) if category in CATEGORIES else None


READERS = {"amber": _of_amber, "mme": _of_mme}


def table(benchmark: str, result: dict) -> str:
    """The numbers as lines of text: shares in percent, MME's scores in points."""
    if benchmark == "mme":
        lines = []
        for name in CATEGORIES:
            metrics = result[name]
            shares = f"acc {100 * metrics['acc']:.1f}%, acc+ {100 * metrics['acc_plus']:.1f}%"
            counts = f"{metrics['images']} images, {metrics['other']} answers neither yes nor no"
            lines.append(f"{name}: score {metrics['score']:.1f}, {shares} ({counts})")
        levels = ("object_level", "attribute_level", "total")
        return "\n".join([*lines, ", ".join(f"{name.replace('_', ' ')} {result[name]:.1f}" for name in levels)])
    parts = {"descriptions": result["generative"]}
    parts |= {f"questions, {name}": part for name, part in result["discriminative"].items()}
    lines = []
    for name, part in parts.items():
        if part["n"]:
            shares = {key: value for key, value in part.items() if value is None or isinstance(value, float)}
            listed = [f"{key} {'-' if value is None else f'{100 * value:.1f}%'}" for key, value in shares.items()]
            lines.append(f"{name} (n = {part['n']}): {', '.join(listed)}")
    if result["amber_score"] is not None:
        lines.append(f"AMBER score {100 * result['amber_score']:.1f}")
    return "\n".join(lines)


def score_file(benchmark: str, answers_file: Path, annotations: Path, argv: Sequence[str], out: Path | None) -> None:
    """Score a file, write <benchmark>_results.json beside it or `out`, and print the numbers.

    Args:
        annotations: AMBER's data folder, or MME's release folder; argv: the command, which the file keeps.
    Raises:
        ValueError: a file or row that cannot be scored; the message names it.
    """
    out = out or answers_file.with_name(f"{benchmark}_results.json")
    see_writable(out, [answers_file])
    answers = read_answers(answers_file, benchmark)
    is_amber = benchmark == "amber"
    result = score_amber(answers, load_amber(annotations)) if is_amber else score_mme(load_mme(annotations), answers)
    write_scores(out, result, [answers_file], table(benchmark, result), argv=list(argv))
