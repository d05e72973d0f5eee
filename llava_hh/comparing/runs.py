"""Finished runs against the first of them: paired statistics, and the images where a run does better or worse."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llava_hh.comparing.comparable import Captions, hashed_images, load_captions, refuse_mismatches
from llava_hh.comparing.summary import OF_P_VALUES, cell, family, shown_p
from llava_hh.files.files import printable, write_json
from llava_hh.files.progress import say
from llava_hh.files.tables import Estimate, Table, beside, print_table
from llava_hh.metrics.chair.datasets import load_dataset
from llava_hh.metrics.statistics import METRICS, compare_with_reference, summarise
from llava_hh.runs.run import make_parent, provenance


@dataclass(frozen=True)
class Comparison:
    """The runs to compare, and how: the flags of these names."""

    runs: Sequence[Path]
    across: Sequence[str] = ()
    metrics: Sequence[str] = tuple(METRICS)
    annotations: Path | None = None
    dataset: str = "coco"
    variant: str = "hh"
    examples: int = 3
    seed: int = 0


def scorer(given: Comparison, cache: Path) -> Callable[[Sequence[dict]], list[dict]]:
    """A function that scores rows of captions by --annotations, --dataset and --variant."""
    dataset = load_dataset(given.dataset, given.variant)

    def score(rows: Sequence[dict]) -> list[dict]:
        texts = []
        for number, row in enumerate(rows, start=1):
            try:
                texts.append((dataset.image_id(row.get("image_id")), row.get("text")))
                if not isinstance(row.get("text"), str):
                    raise ValueError(f"text is {row.get('text')!r:.80}")
            except ValueError as error:
                expected = f"to be scored here, captions need `image_id` ({dataset.id_expected}) and `text`"
                raise ValueError(f"caption {number}: {error}; {expected}") from None
        image_ids = [image_id for image_id, _ in texts]
        objects = dataset.objects(dataset.annotations(given.annotations, image_ids, cache=cache))
        scores = [{"image_id": image_id, **dataset.score(text, objects[image_id])} for image_id, text in texts]
        return [{**row, **scored} for row, scored in zip(rows, scores, strict=True)]

    return score


def load_runs(given: Comparison, out: Path) -> list[Captions]:
    """The runs of the command line, all in the order of the reference's images.

    Raises:
        ValueError, FileNotFoundError: a file that cannot be read, a run given twice, or runs that cannot be compared.
    """
    if len({path.resolve() for path in given.runs}) < max(2, len(given.runs)):
        raise ValueError(f"runs {', '.join(map(str, given.runs))}: expected two or more different ones")
    score = scorer(given, out.with_name("ground_truth.json")) if given.annotations else None
    runs = [load_captions(path, score) for path in given.runs]
    refuse_mismatches(runs, given.across)
    common = set.intersection(*(set(run.image_ids) for run in runs))
    if not common:
        raise ValueError("images: there is none that all runs have")
    order = [image_id for image_id in runs[0].image_ids if image_id in common]
    return [replace(run, sentences=[run.by_image[image_id] for image_id in order]) for run in runs]


def wins_and_losses(reference: Captions, other: Captions, n: int) -> dict:
    """Images where `other` names fewer (wins) or more (losses) different hallucinated objects than the reference.

    Returns: how many images of each kind, and the `n` of wins and losses with the largest differences, both captions
        and their hallucinated objects.
    """
    examples: dict[str, list[dict]] = {"wins": [], "losses": []}
    for pair in zip(reference.sentences, other.sentences, strict=True):
        wrong = [sorted({node for _, node in entry["mscoco_hallucinated_words"]}) for entry in pair]
        if fewer := len(wrong[0]) - len(wrong[1]):
            about = {"image_id": pair[0]["image_id"], "image": pair[0].get("image"), "fewer": fewer}
            both = [
                {"caption": entry["caption"], "hallucinated": nodes} for entry, nodes in zip(pair, wrong, strict=True)
            ]
            examples["wins" if fewer > 0 else "losses"].append({**about, "reference": both[0], "other": both[1]})
    counts = {f"n_{kind}": len(of_kind) for kind, of_kind in examples.items()}
    counts["n_ties"] = len(reference.sentences) - sum(counts.values())
    largest = {kind: sorted(of_kind, key=lambda e: -abs(e["fewer"]))[:n] for kind, of_kind in examples.items()}
    return {**counts, **largest}


def table(result: Mapping[str, dict], reference: str, metrics: Sequence[str]) -> Table:
    """The reference's metrics, and each run's with their differences."""
    heads, rows = ["run", "metric", "value", "minus the reference", "p", "p (Holm)"], []
    for label, entry in result.items():
        for metric in metrics:
            cells = [label, METRICS[metric].head, cell(entry, metric), "", "", ""]
            if label != reference:
                test = entry["difference"][metric]
                interval, factor = test["interval"]["difference"], METRICS[metric].factor
                cells[3:] = [Estimate(test["difference"], interval, factor, "+.2f"), shown_p(test, "p"), shown_p(test)]
            rows.append(cells)
    tests = {label: entry["difference"] for label, entry in result.items() if label != reference}
    note = f"n = {result[reference]['n']}; in brackets: 95% bootstrap intervals over images, paired ones of differences"
    return Table(heads, rows, f"{note}; p: {OF_P_VALUES}, {family(tests)}.")


def describe_examples(reference: str, other: str, examples: Mapping) -> str:
    """Wins and losses as text for a terminal; control characters in captions are written as escapes."""
    lines = [
        f"{other} names fewer hallucinated objects than {reference} in {examples['n_wins']} images, more in "
        f"{examples['n_losses']}, as many in {examples['n_ties']}"
    ]
    for kind, name in (("wins", "fewer"), ("losses", "more")):
        for example in examples[kind]:
            lines.append(f"{name}: image {example['image_id']} ({example['image']})")
            for label, key in ((reference, "reference"), (other, "other")):
                objects = ", ".join(example[key]["hallucinated"]) or "none"
                lines.append(f"  {label} [{objects}]: {example[key]['caption']}")
    return "\n".join(printable(line.replace("\n", "\\n")) for line in lines)


def compare_runs(given: Comparison, out: Path | None, form: str) -> None:
    """Compare runs, write comparison.json beside the folder of the first or `out`, and print a table and examples.

    Args:
        form: of the table, one of `llava_hh.files.tables.FORMATS`.
    Raises:
        ValueError, FileNotFoundError: a file that cannot be read, a run given twice, or runs that cannot be compared.
    """
    first = given.runs[0]
    out = out or (first if first.is_dir() else first.parent).parent / "comparison.json"
    make_parent(out)
    reference, *others = runs = load_runs(given, out)
    sentences = {run.label: run.sentences for run in runs}
    differences = compare_with_reference(sentences, reference.label, given.metrics, given.seed)
    result, shown = {}, []
    for run in runs:
        result[run.label] = summarise(run.sentences, given.seed)
        result[run.label]["made_with"] = run.record and run.record["settings"]
    for run in others:
        examples, n_hashed = wins_and_losses(reference, run, given.examples), len(hashed_images(reference, run))
        result[run.label] |= {"difference": differences[run.label], **examples, "n_same_files": n_hashed}
        shown.append(describe_examples(reference.label, run.label, examples))
        if n_hashed < len(run.sentences):
            shown.append(f"known by sha256 to be the same files: {n_hashed} of {len(run.sentences)} images")
    settings = {"reference": reference.label, "metrics": list(given.metrics), "across": list(given.across)}
    write_json(out, {"settings": {**settings, "seed": given.seed}, "runs": result, "run": provenance()})
    print_table(table(result, reference.label, given.metrics), form)
    say("\n".join([*shown, str(out)]), file=beside(form))
