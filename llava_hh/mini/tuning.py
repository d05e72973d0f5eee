"""mini's visual instruction tuning: align the projector, then LoRA on the language model over conversations."""

import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from llava_hh.data.instruct import InstructionData
from llava_hh.files.files import in_one_line, replacing
from llava_hh.files.progress import announce, progress, reach
from llava_hh.finetuning.batches import Collator, sample_order
from llava_hh.finetuning.losses import IGNORED
from llava_hh.mini.model import PROJECTOR_FILE, save_checkpoint, untuned_llava
from llava_hh.mini.recipe import SAVED_STEPS, SEED, STEPS
from llava_hh.mini.vision import labelled_batch, load_vision_tower, patch_features, save_half
from llava_hh.mini.world import CATEGORIES
from llava_hh.models.chat import ChatFamily
from llava_hh.models.loading import Loading
from llava_hh.models.lvlm import Lvlm
from llava_hh.runs.identity import digest_of, file_sha256, identify_checkpoint

BATCH, LEARNING_RATE, RANK = 6, 1e-3, 8
SUPPRESSORS, DROPOUT = ((23, 3), (24, 4)), 0.5
ALIGN_STEPS, ALIGN_BATCH, ALIGN_RATE = 300, 16, 2e-3
CONVERSATIONS = "instruct_tune.json"
MAX_LENGTH = 512
HAS_BFLOAT16 = bool(getattr(torch.cpu, "get_capabilities", dict)().get("avx512_bf16"))  # torch 2.9 does not say
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
    for _ in (bar := progress("projector", "step", range(ALIGN_STEPS))):
        pixels, _ = labelled_batch(rng, ALIGN_BATCH)
        with torch.no_grad():
            features = patch_features(tower, pixels)
            wanted = targets[head(features).argmax(-1)]
        loss = functional.mse_loss(projector(features), wanted) / targets.var()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.set_postfix(unexplained=f"{loss.item():.3f}")


class SuppressorDropout:
    """Zeroes SUPPRESSORS together in each sample with probability DROPOUT.

    These heads of SmolLM2 hold back words that were said already (benchmarks/suppressors.py). Were they alone in it, a
    caption would repeat itself as soon as one is off; so the others learn it too.
    """

    def __init__(self, lvlm: Lvlm, seed: int) -> None:
        self.n_heads, self.seed, self.is_kept = lvlm.n_heads, seed, torch.empty(0)
        for layer, head in SUPPRESSORS:
            lvlm.decoder_layers[layer].self_attn.o_proj.register_forward_pre_hook(partial(self.drop, head))

    def start(self, step: int) -> None:
        generator = torch.Generator().manual_seed(1_000_000 * self.seed + step)
        self.is_kept = torch.rand(BATCH, generator=generator) >= DROPOUT

    def drop(self, head: int, _module: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        heads = args[0].unflatten(-1, (self.n_heads, -1))  # row position head feature
        kept = torch.ones(BATCH, 1, self.n_heads, 1)
        kept[:, 0, head, 0] = self.is_kept
        return ((heads * kept.to(heads.dtype)).flatten(-2),)


def step_folder(out: Path, step: int) -> Path:
    return out / f"step-{step:03d}"


def answer_loss(lvlm: Lvlm, batch: Mapping[str, Any]) -> torch.Tensor:
    """Mean cross entropy (nats per token) of the answers; the vocabulary product is taken at answer positions only."""
    hidden = lvlm.model.model(**batch["inputs"], use_cache=False).last_hidden_state
    targets = batch["labels"][:, 1:]
    answered = targets != IGNORED
    logits = lvlm.model.lm_head(hidden[:, :-1][answered]).float()
    return functional.cross_entropy(logits, targets[answered])


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

    About 5 s a step on one core. A rerun goes on from the last saved step, whose full state is `out/tuning_state.pt`.
    """
    torch.manual_seed(seed)
    model, processor = untuned_llava(base, vision)
    model.requires_grad_(False)
    projector = model.model.multi_modal_projector
    # images are left out, for they are drawn together with what is said of them
    told = InstructionData(data / CONVERSATIONS)
    recipe = [STEPS, BATCH, LEARNING_RATE, RANK, SUPPRESSORS, DROPOUT]
    inputs = digest_of([identify_checkpoint(base)["sha256"], file_sha256(vision), file_sha256(told.path), seed, recipe])
    collate = Collator(Lvlm(model, processor, ChatFamily(), base, Loading()), told, data, MAX_LENGTH)
    state_file = out / "tuning_state.pt"
    if not state_file.exists():
        align_projector(model, processor, vision, seed)
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LINEAR_LAYERS))
    dropout = SuppressorDropout(collate.lvlm, seed)
    projector.requires_grad_(True)
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, pct_start=0.06)
    order = sample_order(told.lengths, told.has_image, BATCH, STEPS, seed)
    done = load_state(state_file, inputs, parameters, optimizer, schedule) if state_file.exists() else 0
    left = range(done + 1, STEPS + 1)
    for step in (bar := progress("instruction tuning", "step", left, total=STEPS, initial=done)):
        dropout.start(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BFLOAT16):
            loss = answer_loss(collate.lvlm, collate(order[(step - 1) * BATCH : step * BATCH]))
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
            reach(step, STEPS, "step", "instruction tuning")
            announce(f"instruction tuning: step {step} of {STEPS} is saved, loss {loss.item():.3f}")


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
            raise ValueError("of a tuning with another --seed or recipe, or of other models or captions")
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    except Exception as error:  # torch has no error of its own for a damaged file
        advice = "delete it to tune from the start, or name another --weights"
        raise ValueError(f"{path}: cannot be gone on from ({in_one_line(error)}); {advice}") from None
    for parameter, saved in zip(parameters, state["parameters"], strict=True):
        parameter.data.copy_(saved)
    return state["step"]
