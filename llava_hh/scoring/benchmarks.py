"""Answers of a file scored by AMBER or by MME's hallucination subset, from these benchmarks' published files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_hh.data.amber import load_amber
from llava_hh.data.mme import load_mme, plain_question
from llava_hh.files.files import read_json_lines, sha256, write_json
from llava_hh.files.ids import whole_id
from llava_hh.metrics.amber import score_amber
from llava_hh.metrics.mme import CATEGORIES, score_mme
from llava_hh.runs.run import make_parent, provenance

FIELDS = {"amber": ("question_id", "text"), "mme": ("question_id", "prompt", "text")}


def read_answers(path: Path, benchmark: str) -> dict[Any, str]:
    """The text of each answer, by AMBER's query id or by (category, image, question) of MME.

    Rows are those of captions.jsonl, or of LLaVA's answer files: `question_id` is AMBER's id, or such as
    `existence/000000006040.jpg`, with the question in `prompt`. Rows of MME's other categories are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no row, or a row of another form or a repeated one; one line that names it.
    """
    answers: dict[Any, str] = {}
    for number, row in read_json_lines(path, "JSON lines, one answer a row (--answers)"):
        try:
            key, text = _answer(row, benchmark)
            if key in answers:
                raise ValueError("answers a question for the second time")
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from None
        if benchmark == "amber" or key[0] in CATEGORIES:
            answers[key] = text
    if not answers:
        raise ValueError(f"--answers {path}: no answer to score; expected at least one row")
    return answers


def _answer(row: Any, benchmark: str) -> tuple[Any, str]:
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, found a {type(row).__name__}")
    for field in FIELDS[benchmark]:
        if not isinstance(row.get(field), str) and (benchmark, field) != ("amber", "question_id"):
            raise ValueError(f"{field!r} is {row.get(field)!r}; expected a string")
    if benchmark == "amber":
        return whole_id(row.get("question_id"), "'question_id'"), row["text"]
    image = Path(row["question_id"])
    return (image.parts[0] if image.parts else "", image.stem, plain_question(row["prompt"])), row["text"]


def table(benchmark: str, result: dict) -> str:
    """The numbers as lines of text: shares in percent, MME's scores in points."""
    if benchmark == "mme":
        lines = [
            f"{name}: score {own['score']:.1f}, acc {100 * own['acc']:.1f}%, acc+ {100 * own['acc_plus']:.1f}% "
            f"({own['images']} images, {own['other']} answers neither yes nor no)"
            for name, own in ((category, result[category]) for category in CATEGORIES)
        ]
        levels = ("object_level", "attribute_level", "total")
        return "\n".join([*lines, ", ".join(f"{name.replace('_', ' ')} {result[name]:.1f}" for name in levels)])
    parts = {"descriptions": result["generative"]}
    parts |= {f"questions, {name}": own for name, own in result["discriminative"].items()}
    lines = []
    for name, own in parts.items():
        if own["n"]:
            shares = [(key, value) for key, value in own.items() if value is None or isinstance(value, float)]
            listed = ", ".join(f"{key} {'-' if value is None else f'{100 * value:.1f}%'}" for key, value in shares)
            lines.append(f"{name} (n = {own['n']}): {listed}")
    if result["amber_score"] is not None:
        lines.append(f"AMBER score {100 * result['amber_score']:.1f}")
    return "\n".join(lines)


def score_file(benchmark: str, answers_file: Path, annotations: Path, argv: Sequence[str], out: Path | None) -> None:
    """Score a file, write <benchmark>_results.json beside it or `out`, and print the numbers.

    Args:
        annotations: AMBER's data folder, or MME's release folder; argv: the command, which the file keeps.
    Raises:
        ValueError: a file or row that cannot be scored, named.
    """
    out = out or answers_file.with_name(f"{benchmark}_results.json")
    if out.resolve() == answers_file.resolve():
        raise ValueError(f"--out {out}: is an input of this run; expected another file")
    make_parent(out)
    answers = read_answers(answers_file, benchmark)
    if benchmark == "amber":
        result = score_amber(answers, load_amber(annotations))
    else:
        result = score_mme(load_mme(annotations), answers)
    run = {**provenance(), "argv": list(argv), "sha256": {str(answers_file): sha256(answers_file)}}
    write_json(out, {**result, "run": run})
    print(table(benchmark, result))
    print(out)
