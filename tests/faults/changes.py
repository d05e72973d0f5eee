"""Changes of what a run was made of: inputs, settings, and its own folder."""

import os
import shutil
from pathlib import Path

from .case import Case, Change, dtype, repaint, rewrite, spoil, weights
from .folder_changes import (
    a_block_gone,
    arrays_cut,
    arrays_gone,
    arrays_of_another,
    block_of_another,
    no_run_json,
    no_run_json_and_other_dtype,
    no_run_json_and_other_weights,
    run_json_of_another,
)


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


def batch_size(case: Case) -> None:
    case.replace("--batch-size", {2: 3, 4: 2}[case.value("--batch-size")])


def prompt(case: Case) -> object:
    if case.script.name == "pope":
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
OTHER_MODEL = "_eval_results.json: of another model"  # than the captions were made by
CHANGES = [
    Change(weights, named=("model.safetensors", OTHER_MODEL)),
    Change(model_config, named=("config.json", OTHER_MODEL)),
    Change(generation_config, named=("generation_config.json", OTHER_MODEL)),
    Change(tokenizer, named=("tokenizer.json", "spell", OTHER_MODEL)),
    Change(chat_template, named=("chat_template", OTHER_MODEL)),
    Change(processor, named=("processor", OTHER_MODEL)),
    Change(an_image, named=("changed since", "images")),
    Change(every_image, named=("changed since", "images")),
    Change(an_image_gone, named=("changed since", "images", ".jpg", ".png")),
    Change(image_folder_moved),
    Change(instances, needs=("--annotations",), named=("annotations", "questions")),
    Change(reference_captions, needs=("--annotations",), named=("annotations",)),
    Change(list_of_images, needs=("--annotations",), named=("draw", "annotations")),
    Change(head_list, needs=("--heads",), named=("heads", "interventions"), folders_stay=True),
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
    Change(no_run_json_and_other_weights, named=("run.json", "no run of ours wrote it", OTHER_MODEL)),
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
