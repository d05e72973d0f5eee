"""Reading the result files of `llava-hh score chair`, and checking that they belong to the captions beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_hh.data.nocaps import image_id_of
from llava_hh.files.files import read_json, sha256
from llava_hh.files.ids import number_or_text
from llava_hh.files.json_lists import read_values
from llava_hh.metrics.chair.nocaps import VARIANT as NOCAPS

SCORED = "_eval_results.json"  # how the names of files of captions with their CHAIR end
RESULT_FILE = f"captions{SCORED}"  # of one method
# what is read of scored captions: the type of each value, and of what is in its list
SCORED_FORM = {
    "image_id": (int | str, object),
    "caption": (str, object),
    "words": (list, str),
    "mentions": (list, dict),
    "mscoco_gt_words": (list, str),
    "mscoco_hallucinated_words": (list, list),
    "mscoco_non_hallucinated_words": (list, list),
}


def scored_file(result: Path) -> str:
    """The name of the file whose captions a result file has the scores of; of `evaluate`, its captions.jsonl."""
    run = read_json(result).get("run")
    scored = run.get("sha256") if isinstance(run, dict) else None
    return Path(next(iter(scored))).name if isinstance(scored, dict) and scored else "captions.jsonl"


def result_of(captions: Path) -> Path:
    """The result file of a file of captions: RESULT_FILE beside it, or one of its name where that is of another."""
    names = (RESULT_FILE, f"{captions.stem}_eval_results.json", f"{captions.name}_eval_results.json")
    paths = [captions.with_name(name) for name in names]
    free = (path for path in paths if not path.is_file() or scored_file(path) == captions.name)
    return next(free, paths[-1])


def read_scored(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The scored captions of a result file, and its overall metrics.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not what llava-hh score chair writes; names the first entry of another form.
    """
    content = read_json(path)
    sentences, metrics = content.get("sentences"), content.get("overall_metrics")
    is_scored = isinstance(metrics, dict) and isinstance(metrics.get("variant"), str)
    if not is_scored or not isinstance(sentences, list):
        raise ValueError(f"{path}: no captions with `overall_metrics`; expected what llava-hh score chair writes")
    if not sentences:
        raise ValueError(f"{path}: no captions there; expected what llava-hh score chair writes")
    for number, entry in enumerate(sentences):
        form = SCORED_FORM if isinstance(entry, dict) else {}
        wrong = [name for name, (kind, inner) in form.items() if not _has_form(entry.get(name), kind, inner)]
        if wrong or not form:
            what = f"its {wrong[0]} is not as llava-hh score chair writes it" if wrong else "it is not an object"
            raise ValueError(f"{path}: entry {number} of `sentences`: {what}; score the captions again")
        if unlike_truth(entry):
            what = "hallucinated mentions do not fit its mscoco_gt_words"
            raise ValueError(f"{path}: entry {number} of `sentences`: {what}; score the captions again")
    return with_image_ids(path, sentences, metrics["variant"]), metrics


def unlike_truth(entry: Mapping[str, Any]) -> bool:
    """Whether an entry marks a mention as hallucinated though its object is in the image, or the other way round."""
    truth, mentions = entry.get("mscoco_gt_words"), entry.get("mentions")
    if not isinstance(truth, list) or not isinstance(mentions, list):
        return False
    marks = [(mention.get("node"), mention.get("hallucinated")) for mention in mentions if isinstance(mention, dict)]
    return any(is_wrong is (node in truth) for node, is_wrong in marks)


def captions_beside(result: Path) -> list[Path]:
    """The files beside a result file that it says it has the scores of, and that are there."""
    try:
        run = read_values(result, ("run",)).get("run")
    except (OSError, ValueError):
        return []
    scored = run.get("sha256") if isinstance(run, dict) else None
    names = scored if isinstance(scored, dict) else ()
    return [path for name in names if (path := result.with_name(Path(name).name)).is_file()]


def refuse_stale(path: Path, run: object) -> None:
    """See that captions have not changed since llava-hh score chair wrote a result file beside them.

    Args:
        run: what the file says of how it was made.
    Raises:
        ValueError: they have; names them.
    """
    scored = run.get("sha256") if isinstance(run, dict) else None
    for name, digest in scored.items() if isinstance(scored, dict) else ():
        beside = path.with_name(Path(name).name)
        is_meant = not Path(name).exists() or Path(name).resolve() == beside.resolve()  # else it lies elsewhere
        if is_meant and beside.is_file() and sha256(beside) != digest:
            raise ValueError(f"{path}: {beside.name} beside it has changed since; run llava-hh score chair again")


def truth_of(sentences: Sequence[dict], metrics: Mapping[str, Any]) -> tuple:
    """What captions were scored against, to compare: the variant of CHAIR, and the objects of every image."""
    return metrics["variant"], sorted((entry["image_id"], sorted(entry["mscoco_gt_words"])) for entry in sentences)


def with_image_ids(path: Path, sentences: Sequence[dict], variant: str | None) -> list[dict]:
    """Entries of a result file, their `image_id` by the rule for the data set that `variant` of CHAIR belongs to.

    Raises:
        ValueError: one that is no id; names the first such entry.
    """
    read, entries = image_id_of if variant == NOCAPS else number_or_text, []
    for number, entry in enumerate(sentences):
        try:
            entries.append({**entry, "image_id": read(entry["image_id"])})
        except ValueError as error:
            raise ValueError(f"{path}: entry {number} of `sentences`: image_id: {error}") from None
    return entries


def _has_form(value: object, kind: type, inner: type) -> bool:
    return isinstance(value, kind) and (kind is not list or all(isinstance(part, inner) for part in value))
