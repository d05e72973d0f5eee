"""Language-model loss of reference captions under no intervention, AD-HH, zeroed heads and random ones.

The captions are teacher-forced as answers to the prompt. Writes a folder per method (losses.jsonl, run.json) and
reference_loss.json; with --captions, what each method's own captions name and find stands beside its loss.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llava_hh.analysis.reference_loss import answer_losses, reference_tokens, summarise_losses
from llava_hh.command_line import COUNT, SIZE, errors_in_one_line, script_parser
from llava_hh.comparison import SHOWN, cell
from llava_hh.data.images import load_image
from llava_hh.evaluation import Evaluation, control_heads, heads_with_text
from llava_hh.files import read_json, sha256, write_json
from llava_hh.flags import add_adhh_flags, add_sample_flags, evaluation_from_flags, heads_from_flags
from llava_hh.heads import Head
from llava_hh.interventions import DeactivateText, Intervention, ZeroHeads
from llava_hh.memory import in_parts, smallest_part
from llava_hh.metrics.compare import summarise
from llava_hh.runs import processes, provenance, start_run
from llava_hh.tables import Estimate, Table, print_table

REFERENCE = "none"
CAPTION_METRICS = ("length", "mentions", "distinct", "repeated", "recall", "CHAIRi")  # of a method's own captions


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    add_sample_flags(parser, "val2014", limit=100)
    add_adhh_flags(parser)
    add = parser.add_argument
    add("--captions-per-image", type=SIZE, default=5, help="the first so many reference captions of each image")
    add("--random-draws", type=COUNT, default=1, help="draws of as many random heads, none of them of the top k")
    add("--tfhh-model", type=Path, nargs="*", default=[], help="fine-tuned checkpoint folders, one per seed")
    add(
        "--captions",
        nargs="*",
        default=[],
        metavar="METHOD=FILE",
        help="captions_eval_results.json of a method, such as adhh=results/.../captions_eval_results.json",
    )
    return parser


def caption_losses(
    evaluation: Evaluation, samples: Sequence[dict], captions: Sequence[str], interventions: Sequence[Intervention]
) -> list[dict]:
    """The loss of one reference caption per image, in one batch: rows of `image_id`, `nats` and `n_tokens`."""
    lvlm = evaluation.lvlm
    images = [load_image(evaluation.image_of(sample)) for sample in samples]
    responses = reference_tokens(lvlm, captions, evaluation.max_new_tokens)
    batch = lvlm.encode(images, [evaluation.prompt] * len(images), responses)
    losses = answer_losses(lvlm, batch, responses, interventions)
    return [
        {"image_id": sample["image_id"], "nats": nats, "n_tokens": len(ids)}
        for sample, nats, ids in zip(samples, losses, responses, strict=True)
    ]


def measure(evaluation: Evaluation, interventions: list[Intervention], out: Path) -> list[dict]:
    """The loss of the first reference captions of every image into the folder `out`; a row per caption."""
    per_image = evaluation.task["captions_per_image"]
    references = {sample["image_id"]: evaluation.references[sample["image_id"]] for sample in evaluation.samples}
    with start_run(out, evaluation.settings(interventions), list(references)) as run:
        for number, block in run.blocks(evaluation.samples, evaluation.batch_size, out.name, evaluation.image_of):
            rows, sizes = [], []
            for place in range(per_image):
                shown = [sample for sample in block if place < len(references[sample["image_id"]])]
                if shown:
                    captions = [references[sample["image_id"]][place] for sample in shown]
                    parts, size = in_parts(
                        lambda part: caption_losses(evaluation, *zip(*part, strict=True), interventions),
                        list(zip(shown, captions, strict=True)),
                    )
                    sizes.append(size)
                    rows += [{**row, "caption": place} for part in parts for row in part]
            run.finish_block(number, block, rows, sub_batch=smallest_part(sizes))
        run.write_rows("losses.jsonl")
        return run.finished_rows()


def caption_metrics(given: Sequence[str], methods: Sequence[str], truth: Mapping[str, str]) -> dict[str, dict]:
    """Of the files that --captions names, by method: CAPTION_METRICS with their intervals, and the file's sha256.

    Raises:
        ValueError: another form than METHOD=FILE, a method that was not measured, no file of scored captions, or one
            that says it was scored by other annotations.
    """
    found = {}
    for each in given:
        name, _, path = each.partition("=")
        if not path or name not in methods:
            raise ValueError(f"--captions {each}: expected METHOD=FILE, METHOD being one of: {', '.join(methods)}")
        content = read_json(Path(path))
        if "sentences" not in content:
            raise ValueError(f"--captions {path}: no `sentences` there; expected a file of llava-hh score chair")
        made = content.get("run") or {}
        scored_by = made.get("truth") or {Path(file).name: digest for file, digest in made.get("sha256", {}).items()}
        if changed := [file for file in truth if scored_by.get(file, truth[file]) != truth[file]]:
            raise ValueError(f"--captions {path}: scored by another {changed[0]} than --annotations has; score it anew")
        summary = summarise(content["sentences"])
        found[name] = {metric: summary[metric] for metric in CAPTION_METRICS} | {"n": summary["n"]}
        found[name]["sha256"] = sha256(Path(path))
        found[name]["interval"] = {metric: summary["interval"][metric] for metric in CAPTION_METRICS}
    return found


def table(methods: dict[str, dict]) -> Table:
    """The methods' losses, and what their own captions are like."""
    captioned = CAPTION_METRICS if any("captions" in entry for entry in methods.values()) else ()
    heads = ["method", "loss, nats per token", "perplexity", f"loss minus {REFERENCE}"]
    heads += [SHOWN[metric][0] for metric in captioned]
    rows = []
    for name, entry in methods.items():
        interval = entry["interval"]
        cells = [name, Estimate(entry["loss"], interval["loss"], form=".3f")]
        cells.append(Estimate(entry["perplexity"], interval["perplexity"], form=".2f"))
        cells.append(
            Estimate(entry["difference"], interval["difference"], form="+.4f") if "difference" in entry else ""
        )
        rows.append(cells + [cell(entry.get("captions", {}), metric) for metric in captioned])
    n_images = methods[REFERENCE]["n_images"]
    return Table(heads, rows, f"In brackets: 95% bootstrap intervals over {n_images} images.")


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        evaluation = evaluation_from_flags(args)
        task = {"captions_per_image": args.captions_per_image, "annotations_sha256": evaluation.truth}
        evaluation = replace(evaluation, task=task)
        heads = heads_with_text(evaluation.lvlm, heads_from_flags(args, evaluation.lvlm, args.top_k), refuse=True)

        def edits(chosen: Sequence[Head]) -> dict[str, list[Intervention]]:
            chosen = tuple(chosen)
            return {"adhh": [DeactivateText(chosen, args.threshold)], "zero": [ZeroHeads(chosen)]}

        methods: dict[str, list[Intervention]] = {REFERENCE: [], **edits(heads)}
        for seed in range(args.seed, args.seed + args.random_draws):
            control = control_heads(evaluation.lvlm, heads, seed)
            methods |= {f"random_{name}_{seed}": edit for name, edit in edits(control).items()}
        tuned = {f"tfhh_{place}": path for place, path in enumerate(args.tfhh_model, 1)}
        captions = caption_metrics(args.captions, [*methods, *tuned], evaluation.truth)
        rows = {name: measure(evaluation, edit, args.out / name) for name, edit in methods.items()}
        for name, path in tuned.items():
            rows[name] = measure(evaluation.with_model(path), [], args.out / name)
        if not processes().is_main:
            return
        result = summarise_losses(rows, REFERENCE)
        for name, own in captions.items():
            result[name]["captions"] = own
        settings = {"top_k": args.top_k, "threshold": args.threshold, "heads_sha256": sha256(args.heads)}
        settings |= evaluation.settings([]).record()
        path = args.out / "reference_loss.json"
        write_json(path, {"methods": result, "settings": settings, "run": provenance()})
        print_table(table(result))
        print(path)


if __name__ == "__main__":
    main()
