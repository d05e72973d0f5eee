"""Is everything there and right that a profile's scripts need? One line per check, none of which stops the others."""

import importlib.metadata
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from packaging.requirements import Requirement

from llava_hh.attention.hooks import intervene
from llava_hh.attention.interventions import DeactivateText
from llava_hh.attention.modules import heads_on_image_alone
from llava_hh.command_line.profiles import HEAD_LISTS, ON_TEXT, REPO, TOP_KS, short_of, wrong_numbers
from llava_hh.data.coco import annotation_files, load_image_list
from llava_hh.data.sample import sample_images
from llava_hh.decoding.head_lists import heads_with_text
from llava_hh.doctor.companions import Companions, Unready
from llava_hh.files.files import in_one_line, printable, read_json
from llava_hh.files.images import image_path, load_image
from llava_hh.files.json_lists import read_lists
from llava_hh.heads import Head, check_heads, load_heads, model_of, published_list
from llava_hh.models.checkpoint import model_type_of
from llava_hh.models.footprint import advice, can_use_disk, free_memory, loaded_bytes, stored_tensors
from llava_hh.models.loading import Loading
from llava_hh.models.lvlm import DESCRIBE, FAMILIES, Batch, Lvlm, load_lvlm
from llava_hh.models.weight_files import check_files
from llava_hh.runs.identity import why_foreign

SPLITS = ("train2014", "val2014")
N_IMAGES = 3
REMEDIES = {  # by check, in the order in which they are made
    "packages": "Run pip install -r requirements.txt.",
    "numbers": "Correct the profile's file.",
    "device": "Install a CUDA build of torch.",
    "checkpoint": "Run bash_scripts/download.sh; checkpoints/README.md says what goes there.",
    "memory": "Take a smaller model.",
    "weights": "Get the checkpoint's files again.",
    "annotations": "Run bash_scripts/download.sh; dataset/README.md says which files go there.",
    "images": "Get these images again; dataset/README.md says where they go.",
    "token layout": "See the checkpoint's chat template and the processor's files.",
    "heads": "Run bash_scripts/attribute.sh, or pass --heads published.",
    "disk": "Let result_path of the profile be a folder that can be written and has room.",
    **dict.fromkeys(("figure 4", "figure 5"), "checkpoints/README.md says what goes there."),
    "TF-HH": "dataset/README.md says what goes there.",
    "HALC": "checkpoints/README.md says what goes there.",
    "nocaps": "dataset/README.md says which files go there.",
    "intervention": "Try DTYPE=float32; if that is no help, the model's attention is of a kind that we don't know.",
}
WORKING_SHARE = 0.25  # of the weights, for activations and caches; an estimate
RESULTS_NEED = 2**30  # bytes; an estimate


class Line(NamedTuple):
    """The outcome of a check; status is "ok", "FAIL" or "skipped"."""

    name: str
    status: str
    text: str

    def __str__(self) -> str:
        return printable(f"{self.name:<13} {self.status:<8} {self.text}")


class Short(ValueError):
    """Too little memory; `remedy` says what would help."""

    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(text)
        self.remedy = remedy


@dataclass
class Examination(Companions):
    """The checks of one profile in order; `run` makes them."""

    root = REPO  # from where the profile's paths count
    profile: dict[str, str]
    failed: set[str] = field(default_factory=set)

    def run(self, report: Callable[[Line], None]) -> bool:
        """Make all checks, and report every line as soon as it is known; whether all checks passed."""
        for name in REMEDIES:
            try:
                line = Line(name, "ok", getattr(self, f"check_{name.lower().replace(' ', '_').replace('-', '_')}")())
            except Unready as error:
                line = Line(name, "skipped", str(error))
            except Exception as error:  # whatever it is, the other checks go on
                self.failed.add(name)
                line = Line(name, "FAIL", f"{in_one_line(error)}. {getattr(error, 'remedy', REMEDIES[name])}")
            report(line)
        return not self.failed

    def path(self, name: str) -> Path:
        """A path of the profile, or the folder of a repository that it names."""
        if not self.profile[name]:
            raise ValueError(f"the profile has no {name}")
        return self.located(self.profile[name])

    def need(self, *names: str) -> None:
        """Leave a check if an earlier one failed."""
        if missing := [name for name in names if name in self.failed]:
            raise Unready(f"for {missing[0]} failed")

    @cached_property
    def lvlm(self) -> Lvlm:
        return load_lvlm(self.path("model_path"))

    @cached_property
    def samples(self) -> dict[str, list[Path]]:
        """A few images of each split, the first of the seeded sample."""
        paths, coco = {}, self.path("coco_path")
        for split in SPLITS:
            images = load_image_list(coco / "annotations" / f"captions_{split}.json")
            drawn = sample_images(images, min(len(images), int(self.profile["report_images"])))[:N_IMAGES]
            paths[split] = [image_path(coco / split, sample["file_name"]) for sample in drawn]
        return paths

    def ask(self) -> Batch:
        """The profile's question about a real image."""
        image = load_image(self.samples[SPLITS[1]][0])
        return self.lvlm.encode([image], [self.profile["question"] or DESCRIBE])

    def check_packages(self) -> str:
        wrong = []
        for need in map(Requirement, importlib.metadata.requires("llava_hh") or []):
            if need.marker and not need.marker.evaluate({"extra": ""}):
                continue
            try:
                version = importlib.metadata.version(need.name)
            except importlib.metadata.PackageNotFoundError:
                version = "missing"
            if version == "missing" or not need.specifier.contains(version, prereleases=True):
                wrong.append(f"{need} is {version}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))

    def check_numbers(self) -> str:
        if wrong := wrong_numbers(self.profile):
            raise ValueError("; ".join(wrong))
        return f"top_k {self.profile['top_k']}, threshold {self.profile['threshold']}, and all others are in range"

    def check_device(self) -> str:
        if torch.cuda.is_available():
            return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        if shutil.which("nvidia-smi"):
            raise ValueError("there is a GPU, but this torch is without CUDA")
        return f"CPU, {os.cpu_count()} cores; no GPU"

    def check_checkpoint(self) -> str:
        path = self.path("model_path")
        kind = model_type_of(path)
        if kind not in FAMILIES:
            raise ValueError(f"{path}: model type {kind!r} is not supported; supported: {', '.join(FAMILIES)}")
        check_files(path)
        tensors = stored_tensors(path)
        files = {tensor.file.path for tensor in tensors}
        size = _gigabytes(sum(file.stat().st_size for file in files))
        return f"{kind}, {len(files)} weight files of {size}, {len(tensors)} tensors"

    def check_memory(self) -> str:
        self.need("checkpoint")
        path, loading = self.path("model_path"), Loading.from_environment()
        need = loaded_bytes(path, loading) * (1 + WORKING_SHARE)
        free, where = free_memory(loading)
        text = f"about {_gigabytes(need)} are needed (an estimate), {_gigabytes(free)} are free on the {where}"
        if need <= free:
            return text
        if loading.device_map != "auto" or loading.bits or not can_use_disk(path):
            raise Short(text, advice(path, loading))
        return f"{text}; the rest stays on the disk and is read for every token, which is slow"

    def check_weights(self) -> str:
        self.need("checkpoint", "memory")
        model = self.lvlm.model
        n_bad = sum(not bool(weight.isfinite().all()) for weight in model.parameters() if weight.device.type != "meta")
        if n_bad:
            raise ValueError(f"{n_bad} tensors hold NaN or infinite numbers")
        size = f"{self.lvlm.n_layers} layers of {self.lvlm.n_heads} heads"
        return f"all keys mapped, {size}, {model.dtype}, on {model.device}"

    def check_token_layout(self) -> str:
        self.need("checkpoint", "memory", "weights", "annotations", "images")
        batch = self.ask()
        ids = batch.inputs["input_ids"][0].tolist()
        positions = batch.image_mask[0].nonzero().flatten().tolist()
        if not positions:
            raise ValueError("no image tokens in the prompt")
        first, last = positions[0], positions[-1]
        if batch.response_start != [len(ids)]:
            raise ValueError(f"the answer starts at {batch.response_start[0]} of {len(ids)} tokens")
        before, after = (self.lvlm.tokenizer.decode(part) for part in (ids[:first], ids[last + 1 :]))
        return (
            f"{first} tokens {before!r}, image at {first} to {last} ({len(positions)} of its tokens), then "
            f"{len(ids) - last - 1} tokens {after!r}; the answer starts at {len(ids)}"
        )

    def check_annotations(self) -> str:
        folder = self.path("coco_path") / "annotations"
        for path in annotation_files(folder, SPLITS):
            with open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - 64))
                if not file.read().rstrip().endswith(b"}"):
                    raise ValueError(f"{path}: cut off; expected a JSON object")
            row = next((row for key, row in read_lists(path) if key == "annotations"), None)
            wanted = "caption" if path.name.startswith("captions_") else "category_id"
            if not isinstance(row, dict) or not {"image_id", wanted} <= row.keys():
                raise ValueError(f"{path}: expected rows with image_id and {wanted} in its list annotations")
        return f"COCO's, of {' and '.join(SPLITS)} in {folder}"

    def check_images(self) -> str:
        self.need("numbers", "annotations")
        images = [load_image(path) for paths in self.samples.values() for path in paths]
        return f"{len(images)} read"

    def check_heads(self) -> str:
        self.need("numbers", "checkpoint", "memory", "weights")
        attributed = self.path("head_list")
        published = self.profile["published_heads"]  # the list that newer_models/decoding.sh takes
        size = (self.lvlm.n_layers, self.lvlm.n_heads)
        if too_many := short_of(self.profile, dict.fromkeys(HEAD_LISTS, size[0] * size[1]), TOP_KS):
            raise ValueError(f"the model has {size[0] * size[1]} heads: {'; '.join(too_many)}")
        lists: dict[Path, list[str]] = {}
        if attributed.is_file():
            lists[attributed] = [name for name in TOP_KS if not published or name != "removal_top_k"]
        if published:
            lists[REPO / published] = ["removal_top_k"]
        if not lists:
            with suppress(ValueError):  # none was published
                lists[published_list(self.lvlm.model.config)] = ["top_k"]
        first = [] if attributed.is_file() else ["none yet; bash_scripts/attribute.sh finds them"]
        return "; ".join(first + [self.examine_heads(path, names) for path, names in lists.items()])

    def examine_heads(self, path: Path, names: list[str]) -> str:
        """Check a head list, and that the profile's numbers of these names can be taken of it."""
        heads, content = load_heads(path), read_json(path)
        check_heads(heads, self.lvlm.n_layers, self.lvlm.n_heads)
        if why := why_foreign(model_of(path), self.path("model_path")):
            raise ValueError(f"{path}: {why}; attribute this model")
        if short := short_of(self.profile, {key: len(content.get(key, ())) for key in HEAD_LISTS}, names):
            raise ValueError(f"{path}: {'; '.join(short)}")
        taken = max((int(self.profile[name]) for name in names if name in ON_TEXT), default=0)
        heads_with_text(self.lvlm, heads[:taken], refuse=True)
        return f"{len(heads)} in {path}, the first {', '.join(map(str, heads[:3]))}"

    def check_disk(self) -> str:
        path = self.path("result_path")
        folder = next(parent for parent in (path, *path.parents) if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
        text = f"{_gigabytes(free)} free for results in {self.profile['result_path']}"
        if free < RESULTS_NEED:
            raise ValueError(f"{text}; about {_gigabytes(RESULTS_NEED)} are needed (an estimate)")
        return text

    @torch.no_grad()
    def check_intervention(self) -> str:
        self.need("checkpoint", "memory", "weights", "annotations", "images", "token layout")
        batch, model = self.ask(), self.lvlm.model
        plain = model(**batch.inputs).logits[:, -1]
        without_text = {head.layer for head in heads_on_image_alone(model)}
        heads = [Head(layer, 0) for layer in range(self.lvlm.n_layers) if layer not in without_text]
        with intervene(model, batch.image_mask, [DeactivateText(heads, 0.0)]) as trace:
            edited = model(**batch.inputs).logits[:, -1]
        fired = sum(count.fired for count in trace.fired.values())
        change = float((edited - plain)[plain.isfinite()].abs().max())
        if not math.isfinite(change) or plain.isnan().any():
            raise ValueError("the logits are not finite")
        if fired != len(heads) or not change:
            raise ValueError(f"AD-HH at threshold 0 fired {fired} times in {len(heads)} layers, logits moved {change}")
        return f"AD-HH on a head of {fired} layers changes the logits by up to {change:.2f}"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
