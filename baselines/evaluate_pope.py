"""POPE: yes-or-no questions about objects, answered by every decoding method, on the same images.

The questions are random, popular and adversarial ones; of the official files (--questions), or made from the
annotations. Answers are judged by their text, under three parsers, and by which of yes and no is likelier (not for
decoders of baselines/). Greedy decoding is always among the methods, as the reference. Every method is tried out before
the first question; a decoder that the model cannot have is left out, and pope.json says why. Writes a folder per method
and kind, and pope.json and .md; run it again to go on after a kill.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from baselines.evaluate import Entry, add_method_flags, check_flags, entries_from_flags, leave_out
from llava_hh.command_line import errors_in_one_line, script_parser
from llava_hh.comparison import BY_LOGITS, POPE_FILE, table_of_pope
from llava_hh.data.coco import load_annotations
from llava_hh.data.images import image_path, load_image
from llava_hh.data.pope import KINDS, SUFFIXES, build_questions, load_questions
from llava_hh.data.sample import sample_images
from llava_hh.evaluation import CaptionSettings, Evaluation, describe_method
from llava_hh.files import write_json, write_rows, write_text
from llava_hh.flags import add_sample_flags, evaluation_from_flags
from llava_hh.generation import answer_samples
from llava_hh.metrics.pope import METRICS, PARSERS, compare, summarise
from llava_hh.polling import ask
from llava_hh.runs import begun_run, processes, provenance, start_run

AVERAGE = "average"


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add_sample_flags(parser, "val2014", limit=500, max_new_tokens=8, with_prompt=False, datasets=("coco",))
    add_method_flags(parser)
    parser.set_defaults(prompt=None, limit_of=[])
    add = parser.add_argument
    add("--questions", type=Path, help="folder of the official coco_pope_*.json; default: questions are built")
    add("--suffix", choices=SUFFIXES, default="llava", help="what follows the question: VCD's, LLaVA-1.5's, or nothing")
    return parser


def questions_of(args: argparse.Namespace, evaluation: Evaluation) -> dict[str, list[dict]]:
    """The questions by kind about --limit images: of the official files, or built."""
    if args.questions:
        official = {kind: load_questions(args.questions / f"coco_pope_{kind}.json") for kind in KINDS}
        return {kind: about_first_images(questions, args.limit) for kind, questions in official.items()}
    ids = [sample["image_id"] for sample in evaluation.samples]
    found = load_annotations(args.annotations, ids, cache=args.out / "ground_truth.json")
    objects = {image_id: found[image_id].categories for image_id in ids}
    enough = [sample for sample in evaluation.samples if len(objects[sample["image_id"]]) >= 3]
    chosen = sample_images(enough, min(args.limit or len(enough), len(enough)), args.seed)
    return {kind: build_questions(chosen, objects, kind, args.seed) for kind in KINDS}


def about_first_images(questions: Sequence[dict], n: int) -> list[dict]:
    """The questions about the first `n` images that are asked about, in order."""
    first = set(list(dict.fromkeys(question["image"] for question in questions))[:n])
    return [question for question in questions if question["image"] in first]


def judge(answers: Mapping[str, Mapping[str, Sequence[dict]]]) -> dict:
    """METRICS by method, judge (a parser, or logits) and kind, with differences to greedy decoding; and their average.

    Args:
        answers: by method and kind.
    """
    found: dict[str, dict] = {}
    for name, by_kind in answers.items():
        judges = {parser: (parser, "answer") for parser in PARSERS}
        if all("p_yes" in row for rows in by_kind.values() for row in rows):
            judges[BY_LOGITS] = ("strict", "answer_by_logits")
        found[name] = {}
        for judge_name, (parser, key) in judges.items():
            own = {kind: summarise(rows, parser, key) for kind, rows in by_kind.items()}
            for kind, rows in by_kind.items():
                if name != "greedy":
                    own[kind]["minus_greedy"] = compare(rows, answers["greedy"][kind], parser, key)
            own[AVERAGE] = {metric: sum(each[metric] for each in own.values()) / len(own) for metric in METRICS}
            found[name][judge_name] = own
    return found


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        decoders = check_flags(args)
        limit, args.limit = args.limit, None  # the images are chosen among those with three objects
        evaluation = evaluation_from_flags(args, with_truth=False)
        args.limit = limit
        questions = questions_of(args, evaluation)
        digest = {kind: hashlib.sha256(json.dumps(asked).encode()).hexdigest() for kind, asked in questions.items()}
        entries = entries_from_flags(args, evaluation, decoders)
        first = next((question for asked in questions.values() for question in asked), None)
        if first is None:
            raise ValueError(f"--annotations {args.annotations}: no image with three objects to ask about")
        image = load_image(image_path(args.image_folder, first["image"]))
        prompt = first["text"] + SUFFIXES[args.suffix]

        def its_own(entry: Entry) -> Evaluation:
            return evaluation if entry.checkpoint is None else evaluation.with_model(entry.checkpoint)

        def settings_of(own: Evaluation, entry: Entry, kind: str) -> CaptionSettings:
            return replace(own, task={"suffix": args.suffix, "questions": digest[kind]}).settings(entry.method)

        def try_out(name: str, entry: Entry) -> None:
            own = its_own(entry)
            for kind in questions:
                begun_run(args.out / name / kind, settings_of(own, entry, kind))
            answer_samples(own.lvlm, [first], [image], entry.method, prompt, 1)

        left_out = leave_out(entries, try_out)
        if processes().is_main and not args.questions:
            for kind, asked in questions.items():
                write_rows(args.out / f"questions_{kind}.jsonl", asked)
        answers: dict[str, dict[str, list]] = {}
        for name, entry in entries.items():
            own = its_own(entry)
            answers[name] = {}
            for kind, asked in questions.items():
                manifest = [question["question_id"] for question in asked]
                with start_run(args.out / name / kind, settings_of(own, entry, kind), manifest) as run:
                    answers[name][kind] = ask(
                        own.lvlm,
                        asked,
                        args.image_folder,
                        run,
                        suffix=SUFFIXES[args.suffix],
                        max_new_tokens=args.max_new_tokens,
                        batch_size=args.batch_size,
                        method=entry.method,
                        label=f"{name}, {kind}",
                    )
        if processes().is_main:
            found = judge(answers)
            settings = {**evaluation.settings([]).record(), "suffix": args.suffix, "questions": digest, "limit": limit}
            settings["methods"] = {name: describe_method(entry.method) for name, entry in entries.items()}
            settings |= {"left_out": left_out} if left_out else {}
            path = args.out / POPE_FILE
            asked = {
                kind: {"images": len({question["image"] for question in own}), "questions": len(own)}
                for kind, own in questions.items()
            }
            content = {"methods": found, "asked": asked, "settings": settings, "run": provenance()}
            write_json(path, content)
            table = table_of_pope(content).markdown()
            write_text(path.with_suffix(".md"), f"{table}\n")
            print(f"{table}\n{path}")


if __name__ == "__main__":
    main()
