"""Caption the same images under several methods and score each by CHAIR, one result folder per method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from llava_hh.data.own import own_images, own_objects
from llava_hh.data.sample import sample_images
from llava_hh.decoding.generation import answer_samples, caption_images, firing_rates, seconds_per_token
from llava_hh.decoding.method import Method
from llava_hh.files.files import write_json
from llava_hh.files.images import image_path, load_image
from llava_hh.metrics.caption_scores import overall_metrics
from llava_hh.metrics.chair.datasets import Dataset, ImageId, load_dataset, own_dataset
from llava_hh.models.lvlm import DESCRIBE, Lvlm, load_lvlm
from llava_hh.runs.identity import describe_loaded, digest_of, file_sha256
from llava_hh.runs.plugins import PLUGINS
from llava_hh.runs.run import make_folder, processes, start_run
from llava_hh.runs.scored import RESULT_FILE
from llava_hh.runs.settings import CaptionedSettings, Settings


@dataclass(frozen=True)
class CaptionSettings(Settings):
    """What decides the captions of one method, or the answers to its questions.

    Args:
        model: the checkpoint by its content; draw: which images were drawn, `dataset`, `split`, `seed`, `n` and the
            sha256 of their ids and names; limit: the first so many of them; task: what a task needs beside captions.
    """

    model: dict
    draw: dict
    prompt: str
    max_new_tokens: int
    batch_size: int
    interventions: list[dict]
    decoder: dict | None = None
    skip_bad: bool = False
    task: dict | None = None
    limit: int | None = None
    image_folder: str | None = None

    free = CaptionedSettings.free


class Captioned(NamedTuple):
    """The captions of a method, one row each; how often heads fired (`firing_rates`); and the times of the blocks.

    times: seconds per generated token (None where the time was not kept) and number of images, by block.
    """

    rows: list[dict]
    fired: dict[str, dict]
    times: list[tuple[float | None, int]]


@dataclass(frozen=True)
class Evaluation:
    """What all methods of a comparison share: model, images, ground truth, prompt.

    samples: `image_id` and `file_name` each; objects, references: what is in each image, and its reference captions;
    draw: what run.json says of the images; truth: the files of ground truth, name to sha256; limit: of a method that
    has the first so many of the images only; task: what else decides the result, for run.json.
    """

    lvlm: Lvlm
    dataset: Dataset
    samples: Sequence[dict]
    image_folder: Path
    draw: dict
    objects: dict[ImageId, set[str]]
    references: dict[ImageId, list[str]]
    prompt: str = DESCRIBE
    max_new_tokens: int = 128
    batch_size: int = 20
    limit: int | None = None
    task: dict | None = None
    truth: dict[str, str] = field(default_factory=dict)

    def of_images(self, image_ids: set[ImageId], chosen: dict) -> "Evaluation":
        """The same for those images alone; `chosen` says in run.json how they were chosen."""
        samples = [sample for sample in self.samples if sample["image_id"] in image_ids]
        return replace(self, samples=samples, draw={**self.draw, **chosen, "sha256": digest_of(samples)})

    def first(self, limit: int | None) -> "Evaluation":
        """The same for the first so many of the images; None is all."""
        return self if limit is None else replace(self, samples=self.samples[:limit], limit=limit)

    def image_of(self, sample: dict) -> Path:
        return image_path(self.image_folder, sample["file_name"])

    def with_model(self, lvlm: Lvlm) -> "Evaluation":
        """The same for another model."""
        return replace(self, lvlm=lvlm)

    @cached_property
    def model(self) -> dict:
        """The identity of the model, by the content of its files."""
        return describe_loaded(self.lvlm)

    def settings(self, method: Method, skip_bad: bool = False) -> CaptionSettings:
        """What a run of a method is held to."""
        shared = ("model", "draw", "prompt", "max_new_tokens", "batch_size", "limit")
        return CaptionSettings(
            **{name: getattr(self, name) for name in shared} | method.describe(),
            skip_bad=skip_bad,
            task={**(self.task or {}), "plugins": dict(PLUGINS)} if PLUGINS else self.task,
            image_folder=str(self.image_folder),
        )

    def record(self, method: Method) -> dict:
        """The settings of a method, and what its captions are scored by: for result files."""
        return {**self.settings(method).record(), "truth": self.truth}

    def how(self, method: Method) -> dict[str, Any]:
        """The arguments of `caption_images` and `ask` that say how answers are made."""
        return {"method": method, "max_new_tokens": self.max_new_tokens, "batch_size": self.batch_size}

    def try_out(self, method: Method) -> None:
        """Decode one token of the first image, so that errors come before any captioning.

        Raises:
            ValueError: settings that the model cannot have.
            CannotDecode: a model of a kind that the method cannot decode.
            OSError: a file that the method needs is missing.
        """
        first = self.samples[:1]
        images = [load_image(self.image_of(sample)) for sample in first]
        answer_samples(self.lvlm, first, images, method, self.prompt, max_new_tokens=1)

    def caption(self, method: Method, out: Path, skip_bad: bool = False) -> "Captioned":
        """Caption by `method` into the folder `out` (captions.jsonl, run.json)."""
        how = self.how(method) | {"prompt": self.prompt, "model_id": self.lvlm.path.name, "label": method.label}
        with start_run(out, self.settings(method, skip_bad), [sample["image_id"] for sample in self.samples]) as run:
            rows = caption_images(self.lvlm, self.samples, self.image_folder, run, skip_bad=skip_bad, **how)
            sizes = [len(block["image_ids"]) for block in run.finished_blocks()]
            times = list(zip(seconds_per_token(run), sizes, strict=True))
            return Captioned(rows, firing_rates(run.finished_blocks()), times)

    def run(self, method: Method, out: Path) -> "Captioned":
        """Caption by `method` and score into the folder `out`; the rows are the sentences of RESULT_FILE."""
        captioned = self.caption(method, out)
        score, objects = self.dataset.score, self.objects
        sentences = [{**row, **score(row["text"], objects[row["image_id"]])} for row in captioned.rows]
        if processes().is_main:
            references = [self.references.get(entry["image_id"], []) for entry in sentences]
            overall = overall_metrics(sentences, self.dataset.variant, references)
            result = {"label": method.label, "kind": method.kind, "sentences": sentences, "overall_metrics": overall}
            result["run"] = self.record(method)
            if captioned.fired:
                result["fired"] = captioned.fired
            write_json(out / RESULT_FILE, result)
        return captioned._replace(rows=sentences)


def open_evaluation(
    model: Path,
    image_folder: Path,
    annotations: Path,
    split: str,
    out: Path,
    dataset: str = "coco",
    limit: int | None = None,
    seed: int = 42,
    with_truth: bool = True,
    **asked: Any,
) -> Evaluation:
    """Draw images, load the model and, where captions are scored, the ground truth.

    Args:
        annotations: folder of COCO's captions_*.json and instances_*.json, or nocaps'; split: whose images are drawn.
        out: the result folder; it is made if it is missing.
        limit: how many images; None is all.
        asked: prompt, max_new_tokens and batch_size.
    Raises:
        ValueError, OSError: a file is missing or damaged, or the images or the model do not fit; names it.
    """
    make_folder(out)
    data = load_dataset(dataset)
    samples = sample_images(data.images(annotations, split), limit, seed)
    known, truth = {}, {}
    if with_truth:
        image_ids = [sample["image_id"] for sample in samples]
        known = data.annotations(annotations, image_ids, cache=out / "ground_truth.json")
        truth = {path.name: file_sha256(path) for path in data.files(annotations)}
    draw = {"dataset": dataset, "split": split, "seed": seed, "n": len(samples), "sha256": digest_of(samples)}
    references = {image_id: of_image.captions for image_id, of_image in known.items()}
    of_images = {"objects": data.objects(known), "references": references, "truth": truth}
    return Evaluation(load_lvlm(model), data, samples, image_folder, draw, **of_images, **asked)


def open_own_images(
    model: Path,
    images: Sequence[Path],
    out: Path,
    objects: Path | Mapping[str, Sequence[str]] | None = None,
    truth: str | None = None,
    **asked: Any,
) -> Evaluation:
    """Load the model for images of one's own, files and folders, and what is in them where it is given.

    Args:
        objects, truth: as in `own_objects`; asked: prompt, max_new_tokens and batch_size.
    Raises:
        ValueError, OSError: a file is missing or damaged, two images have one name, or an image is not in `objects`.
    """
    make_folder(out)
    data = own_dataset()
    folder, samples = own_images(images)
    draw, of_images = {"dataset": "images", "n": len(samples), "sha256": digest_of(samples)}, {}
    if objects is not None or truth is not None:
        ids = [sample["image_id"] for sample in samples]
        shown = own_objects(objects, truth, ids, data.category)
        if missing := [image_id for image_id in ids if image_id not in shown]:
            where = objects if isinstance(objects, Path) else "objects"
            raise ValueError(f"{where}: no row with image_id {missing[0]!r}")
        if isinstance(objects, Path):
            named = {objects.name: file_sha256(objects)}
        elif objects is None:
            named = {"--truth": digest_of(truth)}
        else:
            named = {"objects": digest_of([[str(name), sorted(names)] for name, names in objects.items()])}
        of_images = {"objects": shown, "truth": named}
    shared = {"objects": {}, "references": {}, **of_images}
    return Evaluation(load_lvlm(model), data, samples, folder, draw, **shared, **asked)
