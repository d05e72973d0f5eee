"""mini's visual instruction tuning: align the projector, then LoRA on the language model over captions of scenes."""

import json
import random
from collections import defaultdict
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import trange
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from llava_hh.files.files import in_one_line, replacing
from llava_hh.files.images import image_path, load_image
from llava_hh.mini.model import END_OF_TURN, PROJECTOR_FILE, save_checkpoint, untuned_llava
from llava_hh.mini.recipe import SAVED_STEPS, SEED, STEPS
from llava_hh.mini.vision import labelled_batch, load_vision_tower, patch_features, save_half
from llava_hh.mini.world import CATEGORIES
from llava_hh.models.lvlm import DESCRIBE
from llava_hh.runs.identity import digest_of, file_sha256, identify_checkpoint

BATCH, LEARNING_RATE, RANK = 12, 5e-4, 8
ALIGN_STEPS, ALIGN_BATCH, ALIGN_RATE = 300, 16, 2e-3
CAPTIONS = Path("annotations", "captions_tune.json")
ADAPTER_FILE = "adapter_model.safetensors"
LINEAR_LAYERS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def align_projector(model: LlavaForConditionalGeneration, processor: LlavaProcessor, vision: Path, seed: int) -> None:
    """Least squares: a patch maps to the mean input embedding of its object's name, the background to a newline."""
    rng = random.Random(seed)
    tower, head = load_vision_tower(vision)
    embeddings = model.get_input_embeddings().weight.detach()
    names = [f" {category}" for category in CATEGORIES] + ["\n"]
    ids = processor.tokenizer(names, add_special_tokens=False).input_ids
    targets = torch.stack([embeddings[of_name].mean(0) for of_name in ids])
    projector = model.model.multi_modal_projector.requires_grad_(True)
    optimizer = torch.optim.AdamW(projector.parameters(), ALIGN_RATE)
    for _ in (bar := trange(ALIGN_STEPS, desc="projector")):
        pixels, _ = labelled_batch(rng, ALIGN_BATCH)
        with torch.no_grad():
            features = patch_features(tower, pixels)
            wanted = targets[head(features).argmax(-1)]
        loss = functional.mse_loss(projector(features), wanted) / targets.var()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.set_postfix(unexplained=f"{loss.item():.3f}")


def read_captions(folder: Path) -> list[tuple[Path, list[str]]]:
    """Every image of the set `tune` with its captions."""
    written = json.loads((folder / CAPTIONS).read_text(encoding="utf-8"))
    captions = defaultdict(list)
    for row in written["annotations"]:
        captions[row["image_id"]].append(row["caption"])
    return [(image_path(folder / "tune", row["file_name"]), captions[row["id"]]) for row in written["images"]]


def step_folder(out: Path, step: int) -> Path:
    return out / f"step-{step:03d}"


def answer_loss(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, images: list[Image.Image], captions: list[str]
) -> torch.Tensor:
    """Mean cross entropy (nats per token) of the captions; the vocabulary product is taken at answer positions only."""
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": DESCRIBE}]}]
    prompt = processor.apply_chat_template(turn, add_generation_prompt=True)
    batch = processor(images=images, text=[prompt] * len(images), return_tensors="pt")
    texts = [text + END_OF_TURN for text in captions]
    answers = processor.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    joined = {name: torch.cat([batch[name], answers[name]], 1) for name in ("input_ids", "attention_mask")}
    hidden = model.model(**joined, pixel_values=batch["pixel_values"], use_cache=False).last_hidden_state
    answered = answers["attention_mask"].bool()
    logits = model.lm_head(hidden[:, batch["input_ids"].shape[1] - 1 : -1][answered])
    return functional.cross_entropy(logits, answers["input_ids"][answered])


def save_start(base: Path, vision: Path, out: Path, seed: int = SEED) -> None:
    """Write the model as it is before its first tuning step: projector fitted, language model untouched. 20 s.

    The fitted projector was not kept when mini was tuned; this repeats the fitting, from the same seed.
    """
    torch.manual_seed(seed)
    model, processor = untuned_llava(base, vision)
    align_projector(model, processor, vision, seed)
    save_checkpoint(model, processor, out)


def tune(base: Path, vision: Path, data: Path, out: Path, seed: int = SEED) -> None:
    """Align, tune, and save adapter and projector (half precision) at SAVED_STEPS under `out/step-<n>`.

    About 12 s a step on one core. A rerun goes on from the last saved step, whose full state is `out/tuning_state.pt`.
    """
    torch.manual_seed(seed)
    captioned, (model, processor) = read_captions(data), untuned_llava(base, vision)
    model.requires_grad_(False)
    projector = model.model.multi_modal_projector
    # images are left out, because they are drawn together with their captions
    inputs = digest_of([identify_checkpoint(base)["sha256"], file_sha256(vision), file_sha256(data / CAPTIONS), seed])
    state_file = out / "tuning_state.pt"
    if not state_file.exists():
        align_projector(model, processor, vision, seed)
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LINEAR_LAYERS))
    projector.requires_grad_(True)
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, pct_start=0.06)
    done = load_state(state_file, inputs, parameters, optimizer, schedule) if state_file.exists() else 0
    for step in (bar := trange(done + 1, STEPS + 1, desc="instruction tuning", initial=done, total=STEPS)):
        rng = random.Random(f"{seed}, step {step}")
        chosen = rng.sample(captioned, BATCH)
        images = [load_image(path) for path, _ in chosen]
        loss = answer_loss(model, processor, images, [rng.choice(captions) for _, captions in chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
        if step in SAVED_STEPS:
            folder = step_folder(out, step)
            adapted.peft_config["default"].save_pretrained(folder)
            save_half(get_peft_model_state_dict(adapted), folder / ADAPTER_FILE)
            save_half(projector.state_dict(), folder / PROJECTOR_FILE)
            save_state(state_file, inputs, step, parameters, optimizer, schedule)


def save_state(
    path: Path, inputs: str, step: int, parameters: list[nn.Parameter], optimizer: Optimizer, schedule: LRScheduler
) -> None:
    """Write all that the next step needs, atomically."""
    state = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    with replacing(path) as part:
        torch.save({"inputs": inputs, "step": step, "parameters": [p.data for p in parameters], **state}, part)


def load_state(
    path: Path, inputs: str, parameters: list[nn.Parameter], optimizer: Optimizer, schedule: LRScheduler
) -> int:
    """Take over what `save_state` wrote; the step that it was written after.

    Raises:
        ValueError: a damaged file, or the state of another tuning; one line that says what to do.
    """
    try:
        state = torch.load(path, weights_only=True)
        shapes = [tensor.shape for tensor in state["parameters"]]
        if state["inputs"] != inputs or shapes != [parameter.shape for parameter in parameters]:
            raise ValueError("of a tuning with another --seed, or of other models or captions")
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    except Exception as error:  # torch has no error of its own for a damaged file
        advice = "delete it to tune from the start, or name another --weights"
        raise ValueError(f"{path}: cannot be gone on from ({in_one_line(error)}); {advice}") from None
    for parameter, saved in zip(parameters, state["parameters"], strict=True):
        parameter.data.copy_(saved)
    return state["step"]
