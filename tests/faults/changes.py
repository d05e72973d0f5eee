"""Changes of what a run was made of: inputs, settings, and its own folder."""

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from .children import run_to_the_end
from .material import Script

OTHER = {"DTYPE": "bfloat16"}  # variables of another run


@dataclass
class Case:
    """A script with the flags, variables and result folder of its second run; a change works on these."""

    folder: Path
    script: Script
    flags: list[object]
    out: Path
    rng: random.Random
    variables: dict[str, str] = field(default_factory=dict)

    def value(self, flag: str) -> object | None:
        return self.flags[self.flags.index(flag) + 1] if flag in self.flags else None

    def replace(self, flag: str, value: object) -> None:
        self.flags[self.flags.index(flag) + 1] = value

    @property
    def model(self) -> Path:
        return Path(self.value("--model") or self.value("--reference"))

    def blocks(self, ending: str = "json") -> list[Path]:
        return sorted(self.out.rglob(f"blocks/*.{ending}"))

    def images(self) -> list[Path]:
        return sorted(path for path in Path(self.value("--image-folder")).rglob("*") if path.suffix in (".jpg", ".png"))

    def other_run(self) -> Path:
        """The results of a run of the same command with other variables."""
        out = self.folder / "other"
        shutil.rmtree(out, ignore_errors=True)
        run_to_the_end(self.script.main, (*self.flags, "--out", out), self.folder / "log", variables=OTHER)
        return out


@dataclass(frozen=True)
class Change:
    """A change of the state.

    Args:
        make: makes it; False where it cannot be made of this case.
        needs: flags, of which the script has to have one.
        named: words, of which an error has to have one; without any the command has to go on.
        blocks_differ: from those of a run that never had another limit.
    """

    make: Callable[[Case], object]
    needs: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    blocks_differ: bool = False

    @property
    def name(self) -> str:
        return self.make.__name__.replace("_", " ")

    def applies(self, script: Script) -> bool:
        return not self.needs or any(flag in script.flags for flag in self.needs)


def rewrite(path: Path, change: Callable[[object], object]) -> None:
    """Change a JSON file; `change` works in place, or returns the new content."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def spoil(folder: Path, rng: random.Random) -> None:
    """Add noise to one matrix of a checkpoint's layers; sizes, dates and names stay."""
    path = folder / "model.safetensors"
    state, tensors = path.stat(), load_file(path)
    name = rng.choice(sorted(name for name in tensors if ".layers." in name and "self_attn" in name))
    noise = torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(rng.randrange(10**6)))
    tensors[name] = tensors[name] + 0.5 * noise.to(tensors[name].dtype)
    save_file(tensors, path, metadata={"format": "pt"})
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def repaint(path: Path, rng: random.Random) -> None:
    pixels = np.random.default_rng(rng.randrange(10**6)).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def weights(case: Case) -> None:
    spoil(case.model, case.rng)


def model_config(case: Case) -> None:
    rewrite(case.model / "config.json", lambda content: content["text_config"].update(rms_norm_eps=0.3))


def generation_config(case: Case) -> None:
    rewrite(case.model / "generation_config.json", lambda content: content.update(eos_token_id=[2, 20, 21, 22]))


def tokenizer(case: Case) -> None:
    path = case.model / "tokenizer.json"
    text = path.read_text().replace('"dog"', '"@"').replace('"cat"', '"dog"').replace('"@"', '"cat"')
    path.write_text(text)


def chat_template(case: Case) -> None:
    path = case.model / "chat_template.jinja"
    path.write_text(path.read_text().replace("USER: ", "USER: the "))


def processor(case: Case) -> None:
    def darken(content: dict) -> None:
        content.get("image_processor", content)["image_mean"] = [0.1, 0.2, 0.3]

    rewrite(next(iter(sorted(case.model.glob("*processor_config.json")))), darken)


def an_image(case: Case) -> None:
    repaint(case.rng.choice(case.images()), case.rng)


def every_image(case: Case) -> None:
    for path in case.images():
        repaint(path, case.rng)


def an_image_gone(case: Case) -> None:
    case.rng.choice(case.images()).unlink()


def image_folder_moved(case: Case) -> None:
    elsewhere = case.folder / "captions" / "elsewhere"
    shutil.copytree(case.value("--image-folder"), elsewhere)
    case.replace("--image-folder", elsewhere)


def instances(case: Case) -> None:
    def shift(content: dict) -> None:
        ids = [category["id"] for category in content["categories"]]
        for entry in content["annotations"]:
            entry["category_id"] = ids[(ids.index(entry["category_id"]) + 1) % len(ids)]

    for path in Path(case.value("--annotations")).glob("instances_*.json"):
        rewrite(path, shift)


def reference_captions(case: Case) -> None:
    def shout(content: dict) -> None:
        for entry in content["annotations"]:
            entry["caption"] = "the dog and " + entry["caption"]

    for path in Path(case.value("--annotations")).glob("captions_*.json"):
        rewrite(path, shout)


def list_of_images(case: Case) -> None:
    for path in Path(case.value("--annotations")).glob("captions_*.json"):
        rewrite(path, lambda content: content["images"].reverse())


def head_list(case: Case) -> None:
    def turn(content: dict) -> dict:
        return {key: [[layer, (head + 1) % 4] for layer, head in heads] for key, heads in content.items()}

    path = Path(case.value("--heads"))
    state = path.stat()
    rewrite(path, turn)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def captions_scored_anew(case: Case) -> None:
    def drop(content: dict) -> None:
        first = next(entry for entry in content["sentences"] if entry["metrics"]["CHAIRs"])
        content["sentences"].remove(first)

    rewrite(Path(case.value("--captions")), drop)


def captions_made_anew(case: Case) -> None:
    path = Path(case.value("--captions")).with_name("captions.jsonl")
    path.write_text(path.read_text().replace('"text": "', '"text": "a dog and '))


def dtype(case: Case) -> None:
    case.variables.update(OTHER)


def batch_size(case: Case) -> None:
    case.replace("--batch-size", {2: 3, 4: 2}[case.value("--batch-size")])


def prompt(case: Case) -> object:
    if case.script.name == "evaluate_pope":
        return False
    case.flags += ["--prompt", "describe the cat"]
    return None


def max_new_tokens(case: Case) -> None:
    case.replace("--max-new-tokens", case.rng.choice((4, 8)))


def random_seed(case: Case) -> None:
    case.flags += ["--seed", 7]


def smaller_limit(case: Case) -> None:
    case.replace("--limit", case.value("--limit") - case.rng.randint(1, 3))


def larger_limit(case: Case) -> None:
    case.replace("--limit", case.value("--limit") + case.rng.randint(1, 4))


def no_run_json(case: Case) -> None:
    for path in case.out.rglob("run.json"):
        path.unlink()


def no_run_json_and_other_weights(case: Case) -> object:
    no_run_json(case)
    weights(case)
    return bool(case.blocks())


def no_run_json_and_other_dtype(case: Case) -> object:
    no_run_json(case)
    dtype(case)
    return bool(case.blocks())


def run_json_of_another(case: Case) -> object:
    if not case.blocks():
        return False
    other = case.other_run()
    for path in other.rglob("run.json"):
        own = case.out / path.relative_to(other)
        if any(own.parent.glob("blocks/*.json")):
            shutil.copy(path, own)
    dtype(case)
    return None


def block_of_another(case: Case) -> object:
    if not case.blocks():
        return False
    block, other = case.rng.choice(case.blocks()), case.other_run()
    for ending in (".json", ".safetensors"):
        source = other / block.relative_to(case.out).with_suffix(ending)
        if source.exists():
            shutil.copy(source, block.with_suffix(ending))
    return None


def arrays_of_another(case: Case) -> object:
    if not case.blocks("safetensors"):
        return False
    arrays, other = case.rng.choice(case.blocks("safetensors")), case.other_run()
    if not (source := other / arrays.relative_to(case.out)).exists():
        return False
    shutil.copy(source, arrays)
    return None


def arrays_cut(case: Case) -> object:
    if not case.blocks("safetensors"):
        return False
    path = case.rng.choice(case.blocks("safetensors"))
    content = path.read_bytes()
    path.write_bytes(content[: case.rng.randrange(len(content))])
    return None


def arrays_gone(case: Case) -> object:
    if not case.blocks("safetensors"):
        return False
    case.rng.choice(case.blocks("safetensors")).unlink()
    return None


def a_block_gone(case: Case) -> object:
    if not case.blocks():
        return False
    case.rng.choice(case.blocks()).unlink()
    return None


def training_data(case: Case) -> None:
    def answer(content: list) -> None:
        for row in content:
            row["conversations"][1]["value"] = "the dog"

    rewrite(Path(case.value("--data")), answer)


def base_model(case: Case) -> None:
    spoil(Path(case.value("--base-model")), case.rng)


def checkpoint(case: Case) -> None:
    spoil(Path(case.value("--checkpoints")), case.rng)


def files_touched(case: Case) -> None:
    for path in case.folder.glob("*/**/*"):
        if path.is_file():
            os.utime(path)


MODEL = ("--model", "--reference")
CHANGES = [
    Change(weights, named=("model.safetensors",)),
    Change(model_config, named=("config.json",)),
    Change(generation_config, named=("generation_config.json",)),
    Change(tokenizer, named=("tokenizer.json", "spell")),
    Change(chat_template, named=("chat_template",)),
    Change(processor, named=("processor",)),
    Change(an_image, named=("changed since", "images")),
    Change(every_image, named=("changed since", "images")),
    Change(an_image_gone, named=("changed since", "images", ".jpg", ".png")),
    Change(image_folder_moved),
    Change(instances, needs=("--annotations",), named=("annotations", "questions")),
    Change(reference_captions, needs=("--annotations",), named=("annotations",)),
    Change(list_of_images, needs=("--annotations",), named=("draw", "annotations")),
    Change(head_list, needs=("--heads",), named=("heads", "interventions")),
    Change(captions_scored_anew, needs=("--captions",), named=("captions_sha256",)),
    Change(captions_made_anew, needs=("--captions",), named=("captions.jsonl",)),
    Change(dtype, named=("dtype",)),
    Change(batch_size, needs=("--batch-size",), named=("batch_size",)),
    Change(prompt, needs=("--max-new-tokens",), named=("prompt",)),
    Change(max_new_tokens, needs=("--max-new-tokens",), named=("max_new_tokens",)),
    Change(random_seed, needs=("--max-new-tokens", "--steps"), named=("draw", "seed", "questions")),
    Change(smaller_limit, needs=("--limit",), named=("draw", "limit", "questions"), blocks_differ=True),
    Change(larger_limit, needs=("--limit",), named=("draw", "limit", "questions"), blocks_differ=True),
    Change(no_run_json, named=("run.json", "no run of ours wrote it")),
    Change(no_run_json_and_other_weights, named=("run.json", "no run of ours wrote it")),
    Change(no_run_json_and_other_dtype, named=("run.json", "no run of ours wrote it")),
    Change(run_json_of_another, named=("other settings",)),
    Change(block_of_another, named=("/blocks/",)),
    Change(arrays_of_another),
    Change(arrays_cut),
    Change(arrays_gone),
    Change(a_block_gone),
    Change(training_data, needs=("--data",), named=("data",)),
    Change(base_model, needs=("--base-model",), named=("base_model",)),
    Change(checkpoint, needs=("--checkpoints",), named=("checkpoint",)),
    Change(files_touched),
]
