"""Whether the captions of two runs can be compared image by image: how they were made and scored."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llava_hh.files.files import read_json, read_json_lines
from llava_hh.metrics.chair.datasets import Dataset, ImageId, load_dataset
from llava_hh.metrics.chair.nocaps import VARIANT as NOCAPS
from llava_hh.metrics.chair.variants import OWN
from llava_hh.runs.blocks import Run
from llava_hh.runs.scored import RESULT_FILE, read_scored, result_of
from llava_hh.runs.settings import digest_of

# differences between two runs that --across allows: they are then what is compared, or they do not matter
LIFTABLE = ("images", "model", "prompt", "max_new_tokens", "dtype", "device", "versions", "record")
PACKAGES = ("torch", "transformers", "tokenizers", "pillow")  # those that decide what a model says of an image
RECORD = ("settings", "versions", "image_ids", "seconds")  # of run.json
SCORED_ANEW = "pass --annotations to score all of them here by one"


@dataclass(frozen=True)
class Captions:
    """Scored captions of one method, with the record of how they were made.

    label: the path on the command line; record: run.json, None where there is none; scoring: `variant` and
    `drop_incomplete`; image_sha256: of the image files that the run kept a hash of; n_finished: images in finished
    blocks; stale: whether the captions have changed since they were scored.
    """

    label: str
    sentences: list[dict[str, Any]]
    record: dict[str, Any] | None
    scoring: dict[str, Any]
    image_sha256: dict[ImageId, str]
    n_finished: int | None
    stale: bool

    @property
    def image_ids(self) -> list[ImageId]:
        return [entry["image_id"] for entry in self.sentences]

    @cached_property
    def by_image(self) -> dict[ImageId, dict[str, Any]]:
        return {entry["image_id"]: entry for entry in self.sentences}


def load_captions(path: Path, score: Callable[[Sequence[dict]], list[dict]] | None = None) -> Captions:
    """Read a result folder, or a file of captions beside its run.json.

    Args:
        score: scores rows with `image_id` and `text`; None reads the scores that lie beside the captions.
    Raises:
        FileNotFoundError: no captions, or no scores of them.
        ValueError: a file without the keys of captions, of their scores or of a run.
    """
    file = path / "captions.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; expected a result folder or a file of captions")
    rows = [row for _, row in read_json_lines(file)]
    scored, made = result_of(file), file.with_name("run.json")
    if score is not None:
        try:
            sentences, scoring = score(rows), {}
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    elif not scored.is_file():
        raise FileNotFoundError(f"{scored}: not there; run llava-hh score chair, or {SCORED_ANEW}")
    else:
        sentences, scoring = read_scored(scored)
    record = read_json(made) if made.is_file() else None
    if record is not None and (missing := [key for key in RECORD if key not in record]):
        raise ValueError(f"{made}: no {missing[0]!r} there; expected that of a captioning run")
    blocks = list(Run(file.parent).finished_blocks())
    return Captions(
        label=str(path),
        sentences=sentences,
        record=record,
        scoring=scoring,
        image_sha256=image_digests(blocks),
        n_finished=sum(len(block["image_ids"]) for block in blocks) if blocks else None,
        stale=[row.get("text") for row in rows] != [entry.get("text") for entry in sentences],
    )


def image_digests(blocks: Iterable[Mapping[str, Any]]) -> dict[ImageId, str]:
    """The sha256 of the image files that the blocks of a run kept one of."""
    return {image_id: digest for block in blocks for image_id, digest in _digests_of(block) if digest}


def _digests_of(block: Mapping[str, Any]) -> Iterable[tuple[ImageId, str | None]]:
    """The images of a block with the sha256 of their files; earlier versions kept those of its rows alone."""
    digests = block.get("image_sha256", ())
    of_all = len(digests) == len(block["image_ids"])
    return zip(block["image_ids"] if of_all else [row["image_id"] for row in block["rows"]], digests, strict=False)


def refuse_mismatches(captions: Sequence[Captions], across: Collection[str] = ()) -> None:
    """Check that all captions can be compared with the first.

    Args:
        across: the names in LIFTABLE in which they may differ.
    Raises:
        ValueError: names each difference: the runs, their values, and the flag that allows it.
    """
    problems = [problem for run in captions for problem in problems_of(run)]
    for other in captions[1:]:
        for kind, problem in mismatches(captions[0], other):
            if kind not in across:
                problems.append(f"{problem}; --across {kind} allows it" if kind in LIFTABLE else problem)
    if problems:
        raise ValueError("; and ".join(problems))


def problems_of(captions: Captions) -> Iterator[str]:
    """Errors of a run's captions that do not depend on the other runs, one line each."""
    label, record, ids = captions.label, captions.record, captions.image_ids
    if record:
        wanted = len(record["image_ids"])
        done = wanted if captions.n_finished is None else captions.n_finished
        if not record["settings"].get("skip_bad"):
            done = min(done, len(ids))
        if record["seconds"] is None or done < wanted:
            yield f"unfinished: {label} has {done} of {wanted} images; give its command again to finish it"
    image_id, times = Counter(ids).most_common(1)[0]
    if times > 1:
        yield f"rows: {label} has image {image_id} {times} times; expected one caption an image"
    if captions.stale:
        yield f"scores: {label} holds other captions than its {RESULT_FILE}; run llava-hh score chair, or {SCORED_ANEW}"
    variant = captions.scoring.get("variant", OWN)  # that of a vocabulary of one's own names it by its content
    if not variant.startswith(OWN):
        rules = load_dataset("nocaps") if variant == NOCAPS else load_dataset("coco", variant)
        wrong = [entry["image_id"] for entry in captions.sentences if not _is_reproduced(entry, rules)]
        if wrong:
            yield (
                f"synonyms: {label} was scored by other rules than those that variant {variant!r} has now "
                f"({len(wrong)} captions differ, such as that of image {wrong[0]}); {SCORED_ANEW}"
            )


def _is_reproduced(entry: Mapping[str, Any], rules: Dataset) -> bool:
    now = rules.score(entry["caption"], set(entry["mscoco_gt_words"]))
    return all(now[key] == entry[key] for key in ("mscoco_hallucinated_words", "mscoco_non_hallucinated_words"))


def mismatches(reference: Captions, other: Captions) -> Iterator[tuple[str, str]]:
    """Differences between two sets of captions, apart from the method, that decide the result: (kind, one line)."""
    runs = (reference, other)
    ids = [set(run.image_ids) for run in runs]
    common = ids[0] & ids[1]
    if not common:
        yield "no common image", f"images: {reference.label} and {other.label} have none in common"
        return
    if ids[0] != ids[1]:
        yield "images", f"{_line('images', runs, map(_images_of, runs))}; they have {len(common)} in common"
    yield from _other_contents(runs, common)
    for name in ("variant", "drop_incomplete"):
        values = [run.scoring.get(name, False) for run in runs]
        if values[0] != values[1]:
            yield name, f"{_line(name, runs, map(repr, values))}; {SCORED_ANEW}"
    if None in (reference.record, other.record):
        has = ["no run.json" if run.record is None else "one" for run in runs]
        yield "record", f"{_line('record', runs, has)}, so what it was made with is not known"
        return
    made = [_made_with(run) for run in runs]
    for kind in made[0]:
        if made[0][kind] != made[1][kind]:
            yield kind, _line(kind, runs, [words[kind] for words in made])


def _line(kind: str, runs: Sequence[Captions], values: Iterable[object]) -> str:
    return f"{kind}: " + ", ".join(f"{run.label} has {value}" for run, value in zip(runs, values, strict=True))


def _other_contents(runs: tuple[Captions, Captions], common: set[ImageId]) -> Iterator[tuple[str, str]]:
    """Common images whose files or ground truth differ."""
    changed = [i for i in hashed_images(*runs) if runs[0].image_sha256[i] != runs[1].image_sha256[i]]
    if changed:
        digests = [f"{run.image_sha256[changed[0]][:12]} for image {changed[0]}" for run in runs]
        text = _line("image contents", runs, digests)
        yield "image contents", f"{text}; {len(changed)} files differ by sha256: caption the same files"
    truths = [{image_id: entry["mscoco_gt_words"] for image_id, entry in run.by_image.items()} for run in runs]
    changed = [image_id for image_id in truths[0] if image_id in common and truths[0][image_id] != truths[1][image_id]]
    if changed:
        objects = [f"{', '.join(truth[changed[0]]) or 'nothing'} in image {changed[0]}" for truth in truths]
        text = _line("ground truth", runs, objects)
        yield "ground truth", f"{text}; {len(changed)} images differ; {SCORED_ANEW}"


def hashed_images(reference: Captions, other: Captions) -> list[ImageId]:
    """The common images whose files both runs have hashed; older versions hashed none."""
    hashed = reference.image_sha256.keys() & other.image_sha256.keys() & set(other.image_ids)
    return [image_id for image_id in reference.image_ids if image_id in hashed]


def _images_of(captions: Captions) -> str:
    settings = (captions.record or {}).get("settings", {})
    draw = settings.get("draw")
    about, names = (draw, ("split", "seed", "n")) if draw else (settings, ("seed", "limit"))
    known = ", ".join(f"{name} {about[name]}" for name in names if name in about)
    return f"{len(set(captions.image_ids))}" + (f" ({known})" if known else "")


def _made_with(captions: Captions) -> dict[str, str]:
    """The settings that decide a caption beside image and method, by kind, in words."""
    settings, made = captions.record["settings"], captions.record.get("made") or [captions.record]
    model, names = settings.get("model") or {}, sorted({str(entry.get("model_id")) for entry in captions.sentences})
    if "sha256" in model:  # then its name counts for nothing
        names = [f"sha256 {model['sha256'][:12]}"]
    elif model:  # of an earlier version, whose type, bits and device stand beside it
        names.append(f"by config.json and file sizes {digest_of(model)[:12]}")
        model = settings
    packages = {", ".join(f"{name} {of_block['versions'].get(name)}" for name in PACKAGES) for of_block in made}
    bits = f" in {model['bits']} bits" if model.get("bits") else ""
    return {
        "model": ", ".join(names),
        "prompt": repr(settings.get("prompt")),
        "max_new_tokens": str(settings.get("max_new_tokens")),
        "dtype": str(model.get("dtype")).removeprefix("torch.") + bits,
        "device": str(model.get("device")),
        "versions": "; and ".join(sorted(packages)),
    }
