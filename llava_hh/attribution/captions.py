"""Captions for measurements: read from a result file, and teacher-forced through a model."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from llava_hh.attribution.targets import Target, find_released_targets, find_targets
from llava_hh.data.coco import existing_file
from llava_hh.files.files import read_json
from llava_hh.files.images import image_path, load_image
from llava_hh.files.json_lists import read_rows, read_values
from llava_hh.files.processes import processes
from llava_hh.metrics.chair.chair import score_caption
from llava_hh.models.lvlm import DESCRIBE, Batch, Lvlm, load_lvlm
from llava_hh.runs.identity import describe_loaded, identify_checkpoint
from llava_hh.runs.scored import refuse_stale, unlike_truth, with_image_ids

READ = ("image_id", "image", "prompt", "token_ids", "caption", "mentions")  # what attribution reads of an entry
OF_RELEASED = ("mscoco_gt_words", "mscoco_hallucinated_words")  # and what of one that the paper's code wrote


def hallucinating_captions(path: Path, allow_none: bool = False) -> list[dict]:
    """The entries of a result file with at least one hallucinated object, in order, with the fields READ.

    Raises:
        ValueError: there is none and `allow_none` is not set; captions without token ids, or changed since scoring.
    """
    chosen, n_captions = read_captions(path, READ, lambda entry: entry["metrics"]["CHAIRs"])
    if not chosen and not allow_none:
        raise ValueError(f"--captions {path}: no caption with a hallucinated object among {n_captions}")
    return chosen


def all_captions(path: Path) -> list[dict]:
    """The entries of a result file, hallucinating or not, in order, with the fields READ.

    Raises:
        ValueError: there is none; captions without token ids, or changed since scoring.
    """
    entries, _ = read_captions(path, READ)
    if not entries:
        raise ValueError(f"--captions {path}: no caption")
    return entries


def read_captions(
    path: Path, fields: Sequence[str] = (*READ, "finish_reason"), is_chosen: Callable[[dict], Any] = lambda entry: True
) -> tuple[list[dict], int]:
    """These fields of the chosen entries of a result file, READ among them, in order; and how many entries it has.

    Raises:
        ValueError: the captions have no token ids, or have changed since they were scored.
    """
    content = existing_file(path, "captions_eval_results.json of a run (--captions)")
    n_captions, chosen, damaged = None, [], None
    try:
        for _, number, entry in read_rows(content, keys=("sentences",)):
            n_captions = number
            if isinstance(entry, dict) and damaged is None and unlike_truth(entry):
                damaged = entry.get("image_id")
            if number and is_chosen(entry):
                if "image_id" not in entry and "question_id" in entry:  # as in the paper's captions.jsonl
                    entry = {**entry, "image_id": entry["question_id"]}
                names = fields if "mentions" in entry else (*fields, *OF_RELEASED)
                chosen.append({name: entry[name] for name in names if name in entry})
        if n_captions is None:
            raise KeyError("sentences")
        about = read_values(content, ("overall_metrics", "run"))
    except (KeyError, TypeError) as error:
        expected = "expected the captions_eval_results.json of a run"
        raise ValueError(f"--captions {path}: its `sentences` lack {error}; {expected}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON as llava-hh score chair writes it ({error})") from None
    refuse_stale(path, about.get("run"))
    if damaged is not None:
        what = "hallucinated mentions do not fit its mscoco_gt_words; score the captions again"
        raise ValueError(f"--captions {path}: image {damaged}: {what}")
    chosen = [entry if "mentions" in entry else _of_released(path, entry) for entry in chosen]
    for entry in chosen:
        if missing := [name for name in fields if name not in entry]:
            raise ValueError(f"--captions {path}: its captions have no {missing[0]}; score captions of llava-hh")
        if problem := _why_unlike_ours(entry):
            raise ValueError(f"--captions {path}: image {entry['image_id']}: {problem}; score captions of llava-hh")
    metrics = about.get("overall_metrics")
    variant = metrics.get("variant") if isinstance(metrics, dict) else None
    return with_image_ids(path, chosen, variant), n_captions


def _of_released(path: Path, entry: dict) -> dict:
    """An entry of a result file that the paper's code wrote, with what ours have beside it.

    Its token ids and the name of its image are left to `TeacherForced`, which has the model and the images.

    Raises:
        ValueError: hallucinated words that CHAIR, counted anew, does not find in its caption.
    """
    truth, found = (entry.pop(name, None) for name in OF_RELEASED)
    if not isinstance(truth, list) or not isinstance(found, list) or not isinstance(entry.get("caption"), str):
        return entry
    scored = score_caption(entry["caption"], {*map(str, truth)})
    if found != scored["mscoco_hallucinated_words"]:
        which = f"image {entry.get('image_id')}: hallucinated words {found}"
        raise ValueError(f"--captions {path}: {which}, which CHAIR does not find there; score the captions anew")
    return {"prompt": DESCRIBE, "image": None, "token_ids": None, **entry, "mentions": scored["mentions"]}


def _why_unlike_ours(entry: dict) -> str | None:
    ids, mentions = entry["token_ids"], entry["mentions"]
    is_listed = isinstance(ids, list) and all(type(number) is int and 0 <= number < 2**31 for number in ids)
    if ids is not None and not is_listed:
        return "token_ids are not a list of token ids"
    if not isinstance(entry["prompt"], str) or not isinstance(entry["caption"], str):
        return "prompt and caption are not both text"
    fields = {"word": str, "node": str, "start": int, "hallucinated": bool}
    for mention in mentions if isinstance(mentions, list) else [None]:
        is_ours = isinstance(mention, dict) and all(type(mention.get(name)) is kind for name, kind in fields.items())
        if not is_ours or not 0 <= mention["start"] < len(entry["caption"]):
            return f"mentions do not all have {', '.join(fields)} of its caption"
    return None


def refuse_other_model(captions: Path, checkpoint: Path, flag: str = "--captions") -> None:
    """Check that the run.json beside captions does not name another model than this one; old files name none.

    Args:
        flag: what named the captions, or answers.
    Raises:
        ValueError: it does, in this process or in another of the run.
    """
    record = captions.with_name("run.json")
    settings = read_json(record).get("settings") if record.is_file() else None
    model, problem = settings.get("model") if isinstance(settings, dict) else None, ""
    if isinstance(model, dict) and model.get("sha256", "") not in ("", identify_checkpoint(checkpoint)["sha256"]):
        which = f"of another model ({model.get('name')}) than {checkpoint}, by the content of their files"
        problem = f"{flag} {captions}: {which}; caption with this model"
    if problems := [*filter(None, processes().exchange(problem))]:
        raise ValueError(problems[0])


def digest(entries: list[dict]) -> str:
    """A hash of the entries, without the rest of their file: its date may change."""
    sha256 = hashlib.sha256()
    for piece in json.JSONEncoder().iterencode(entries):
        sha256.update(piece.encode())
    return sha256.hexdigest()


def join_arrays(parts: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Named arrays of several parts, all with the same names, joined along dimension 0."""
    parts = list(parts)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class TeacherForced:
    """A model that reads captions once more, with their images; it is loaded when it is first needed.

    released: take the released code's target words.
    """

    model: Path
    image_folder: Path
    released: bool = False

    @classmethod
    def of(cls, lvlm: Lvlm, image_folder: Path) -> Self:
        """One whose model is loaded already."""
        teacher = cls(lvlm.path, image_folder)
        teacher.__dict__["lvlm"] = lvlm  # where cached_property keeps it
        return teacher

    @cached_property
    def lvlm(self) -> Lvlm:
        return load_lvlm(self.model)

    def image_of(self, entry: dict) -> Path:
        """The image's file: by its name, or where a released result has none, by COCO's way to name one by its id.

        Raises:
            ValueError: a name that cannot be one, or no such file.
        """
        if entry["image"] is not None:
            return image_path(self.image_folder, entry["image"])
        number = f"{entry['image_id']:012d}.jpg"
        splits = dict.fromkeys((self.image_folder.name, self.image_folder.resolve().name))
        names = (*(f"COCO_{split}_{number}" for split in splits), number)
        if there := [self.image_folder / name for name in names if (self.image_folder / name).is_file()]:
            return there[0]
        raise ValueError(f"{self.image_folder}: neither {' nor '.join(names)} there, the image of a caption")

    def ids_of(self, entry: dict) -> list[int]:
        """The caption's token ids: those that were generated, or where a released result has none, those of its text.

        Raises:
            ValueError: the ids of the text are not the text again.
        """
        if entry["token_ids"] is not None:
            return entry["token_ids"]
        ids = self.lvlm.tokenizer(entry["caption"], add_special_tokens=False).input_ids
        if (text := self.lvlm.answer_text(ids)) != entry["caption"]:
            which = f"image {entry['image_id']}: the text {entry['caption'][:60]!r}"
            advice = "name its token_ids" if "where" in entry else "caption the images anew"
            raise ValueError(f"{which} comes back from this model's tokens as {text[:60]!r}; {advice}")
        return ids

    def batch(self, entry: dict) -> Batch:
        """The teacher-forced sample of one caption."""
        return self.lvlm.encode([load_image(self.image_of(entry))], [entry["prompt"]], [self.ids_of(entry)])

    def prepare(self, entry: dict) -> tuple[list[Target], list[int], Batch]:
        """Targets of one caption, the positions that predict them, and the teacher-forced sample."""
        tokenizer, ids, mentions = self.lvlm.tokenizer, self.ids_of(entry), entry["mentions"]
        if self.released:
            targets = find_released_targets(tokenizer, ids, mentions)
        else:
            targets = find_targets(tokenizer, ids, entry["caption"], mentions)
        batch = self.batch(entry)
        return targets, [batch.response_start[0] + target.index - 1 for target in targets], batch

    def fields(self, every: list[dict], batch_size: int, limit: int | None) -> dict[str, Any]:
        """The fields of `CaptionedSettings`; `every`: all captions that could be measured."""
        return {
            "model": describe_loaded(self.lvlm),
            "captions_sha256": digest(every),
            "batch_size": batch_size,
            "limit": limit,
            "image_folder": str(self.image_folder),
        }
