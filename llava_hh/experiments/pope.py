"""The task of POPE: yes-or-no questions about objects, random, popular and adversarial ones.

Answers are judged by their text, under three parsers, and by which of yes and no is likelier (not for decoders).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llava_hh.comparing.summary import BY_LOGITS
from llava_hh.data.coco import load_annotations
from llava_hh.data.pope import KINDS, build_questions, load_questions
from llava_hh.data.sample import sample_images
from llava_hh.decoding.generation import answer_samples
from llava_hh.decoding.method import Method
from llava_hh.decoding.yes_no import ask
from llava_hh.experiments.captioning import CaptionSettings, Evaluation
from llava_hh.experiments.compared import Compared
from llava_hh.files.files import write_rows
from llava_hh.files.images import load_image
from llava_hh.metrics.pope import METRICS, PARSERS, compare, summarise
from llava_hh.runs.run import processes, provenance, start_run
from llava_hh.runs.settings import digest_of

AVERAGE = "average"


@dataclass(frozen=True)
class PopeTask:
    """POPE's questions by kind; `suffix` is what follows the text of each in the prompt, `suffix_name` its name.

    Args:
        limit: about how many images they were to be; keep_in: the folder that they are written to, if any.
    """

    questions: Mapping[str, Sequence[dict]]
    suffix: str
    suffix_name: str
    limit: int | None = None
    keep_in: Path | None = None

    def settings(self, evaluation: Evaluation, method: Method) -> dict[str, CaptionSettings]:
        digests = {kind: digest_of(asked) for kind, asked in self.questions.items()}
        tasks = {kind: {"suffix": self.suffix_name, "questions": digest} for kind, digest in digests.items()}
        return {kind: replace(evaluation, task=task).settings(method) for kind, task in tasks.items()}

    def try_out(self, evaluation: Evaluation, method: Method) -> None:
        first = next(question for asked in self.questions.values() for question in asked)
        image = load_image(evaluation.image_of({"file_name": first["image"]}))
        answer_samples(evaluation.lvlm, [first], [image], method, first["text"] + self.suffix, 1)

    def run(self, evaluation: Evaluation, method: Method, out: Path) -> dict[str, list[dict]]:
        answers, how = {}, evaluation.how(method)
        for kind, settings in self.settings(evaluation, method).items():
            asked = self.questions[kind]
            if self.keep_in and processes().is_main:
                write_rows(self.keep_in / f"questions_{kind}.jsonl", asked)
            with start_run(out / kind, settings, [question["question_id"] for question in asked]) as run:
                about = {"suffix": self.suffix, "label": f"{method.label}, {kind}"}
                answers[kind] = ask(evaluation.lvlm, asked, evaluation.image_folder, run, **about, **how)
        return answers

    def summarise(self, compared: Compared) -> dict:
        asked = {
            kind: {"images": len({question["image"] for question in questions}), "questions": len(questions)}
            for kind, questions in self.questions.items()
        }
        digests = {kind: digest_of(questions) for kind, questions in self.questions.items()}
        judged, methods = judge(compared.results, compared.groups), {}
        for name, label in compared.labels.items():
            folders = {"folders": compared.groups[name]} if name in compared.groups else {}
            methods[name] = {"label": label, **folders, **judged[name]}
        settings = compared.settings | {"suffix": self.suffix_name, "questions": digests, "limit": self.limit}
        return {"methods": methods, "asked": asked, "settings": settings, "run": provenance()}


def judge(answers: Mapping[str, Mapping[str, Sequence[dict]]], groups: Mapping[str, Sequence[str]]) -> dict:
    """METRICS by method, judge (a parser, or logits) and kind, with differences to greedy decoding; and their average.

    Args:
        answers: by method and kind; groups: methods whose answers are also judged together, by the group's name.
    """
    judged: dict[str, dict] = {}
    together = {
        group: {kind: [row for name in names for row in answers[name][kind]] for kind in answers[names[0]]}
        for group, names in groups.items()
    }
    for name, by_kind in {**answers, **together}.items():
        judges = {parser: (parser, "answer") for parser in PARSERS}
        if all("p_yes" in row for rows in by_kind.values() for row in rows):
            judges[BY_LOGITS] = ("strict", "answer_by_logits")
        judged[name] = {}
        for judge_name, (parser, key) in judges.items():
            scores = judged[name][judge_name] = {kind: summarise(rows, parser, key) for kind, rows in by_kind.items()}
            for kind, rows in by_kind.items():
                if name != "greedy":
                    greedy = [*answers["greedy"][kind]] * len(groups.get(name, [name]))
                    scores[kind]["minus_greedy"] = compare(rows, greedy, parser, key)
            averages = {metric: sum(of_kind[metric] for of_kind in scores.values()) / len(scores) for metric in METRICS}
            scores[AVERAGE] = averages
    return judged


def questions_about(
    evaluation: Evaluation, annotations: Path, official: Path | None, limit: int | None, seed: int, cache: Path
) -> dict[str, list[dict]]:
    """The questions by kind about `limit` images: of the official files, or built from annotations.

    Args:
        official: folder of coco_pope_*.json; None builds them, about images that have three objects.
    Raises:
        ValueError: no image has three objects.
        OSError: a file that is not there.
    """
    if official:
        read = {kind: load_questions(official / f"coco_pope_{kind}.json") for kind in KINDS}
        return {kind: about_first_images(questions, limit) for kind, questions in read.items()}
    ids = [sample["image_id"] for sample in evaluation.samples]
    known = load_annotations(annotations, ids, cache=cache)
    objects = {image_id: known[image_id].categories for image_id in ids}
    enough = [sample for sample in evaluation.samples if len(objects[sample["image_id"]]) >= 3]
    if not enough:
        raise ValueError(f"--annotations {annotations}: no image with three objects to ask about")
    chosen = sample_images(enough, min(limit or len(enough), len(enough)), seed)
    return {kind: build_questions(chosen, objects, kind, seed) for kind in KINDS}


def about_first_images(questions: Sequence[dict], n: int | None) -> list[dict]:
    """The questions about the first `n` images that are asked about, in order."""
    first = set(list(dict.fromkeys(question["image"] for question in questions))[:n])
    return [question for question in questions if question["image"] in first]
