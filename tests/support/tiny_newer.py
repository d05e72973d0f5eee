"""Random checkpoints of the newer families: their own architecture and processor, milliseconds a forward pass."""

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    ChameleonImageProcessorPil,
    ChameleonProcessor,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    MllamaImageProcessorPil,
    MllamaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from tests.support.tiny import D_HEAD, IMAGE_TOKEN, N_HEADS, VOCABULARY, text_settings, tiny_chameleon, tiny_mllama
from tests.support.tiny_checkpoint import CHAT, N_WORDS, WORDS, word_tokenizer

Built = tuple[PreTrainedModel, ProcessorMixin]
PATCH = 4
NORM = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}


def without_video(processor_class: type[ProcessorMixin], *parts: object, **settings: object) -> ProcessorMixin:
    """The processor class, made without torchvision."""
    names = [name for name in processor_class.get_attributes() if name != "video_processor"]
    own = type(processor_class.__name__, (processor_class,), {"get_attributes": classmethod(lambda _: names)})
    return own(*parts, **settings)


def begun_by_itself(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Let the tokenizer put <s> before every text, as Llama's and Gemma's do."""
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = processor
    return tokenizer


def text_config(**settings: object) -> dict:
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    return text_settings(2) | {"eos_token_id": 2, "rope_parameters": rope} | settings


def qwen_parts(image: str) -> tuple[Qwen2VLImageProcessorPil, PreTrainedTokenizerBase, str]:
    tokenizer = word_tokenizer(["<|vision_end|>", "<|vision_start|>", "<|video_pad|>", "<|image_pad|>"], "</s>")
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=2, size={"shortest_edge": 8 * 8, "longest_edge": 24 * 24}, **NORM
    )
    return images, tokenizer, CHAT.replace("<image>", image)


def qwen_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def qwen2_5_vl() -> Built:
    images, tokenizer, chat = qwen_parts("<|vision_start|><|image_pad|><|vision_end|>")
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": PATCH}
    vision |= {"window_size": 16, "out_hidden_size": N_HEADS * D_HEAD, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(
        text_config=text_config(rope_parameters=rope), vision_config=vision, **qwen_ids(tokenizer)
    )
    processor = without_video(Qwen2_5_VLProcessor, images, tokenizer, chat_template=chat)
    return Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl() -> Built:
    images, tokenizer, chat = qwen_parts("<|vision_start|><|image_pad|><|vision_end|>")
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": PATCH}
    vision |= {"out_hidden_size": N_HEADS * D_HEAD, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    config = Qwen3VLConfig(
        text_config=text_config(rope_parameters=rope, head_dim=D_HEAD), vision_config=vision, **qwen_ids(tokenizer)
    )
    processor = without_video(Qwen3VLProcessor, images, tokenizer, chat_template=chat)
    return Qwen3VLForConditionalGeneration(config), processor


def mllama() -> Built:
    tokenizer = begun_by_itself(word_tokenizer(["<|image|>"], "</s>"))
    images = MllamaImageProcessorPil(size={"height": 8, "width": 8}, max_image_tiles=2, **NORM)
    processor = MllamaProcessor(images, tokenizer, chat_template="<s>" + CHAT.replace("<image>", "<|image|>"))
    return tiny_mllama()[0], processor


def chameleon() -> Built:
    tokenizer = begun_by_itself(word_tokenizer(["<reserved08706>", "<eoss>", "<racm3:break>", "<image>"], "</s>"))
    tokenizer.add_special_tokens({"sep_token": "<reserved08706>"})
    images = ChameleonImageProcessorPil(size={"shortest_edge": 3}, crop_size={"height": 3, "width": 3})
    return tiny_chameleon(), ChameleonProcessor(images, tokenizer, image_seq_length=9)


def chameleon_swin() -> Built:
    """Norms after the sublayers, as in the 30B."""
    return tiny_chameleon(swin_norm=True), chameleon()[1]


def llava_onevision() -> Built:
    tokenizer = word_tokenizer(["<video>", "<image>"], "</s>")
    pinpoints = [[8, 8], [8, 16], [16, 8], [16, 16]]
    images = LlavaOnevisionImageProcessorPil(size={"height": 8, "width": 8}, image_grid_pinpoints=pinpoints, **NORM)
    processor = without_video(
        LlavaOnevisionProcessor,
        images,
        tokenizer,
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=CHAT,
    )
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 8, "patch_size": PATCH, "vision_use_head": False}
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text_config(model_type="qwen2"),
        image_token_index=IMAGE_TOKEN,
        video_token_index=IMAGE_TOKEN - 1,
        image_grid_pinpoints=pinpoints,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def llava_next() -> Built:
    tokenizer = word_tokenizer(["<image>"], "</s>")
    pinpoints = [[8, 16], [16, 8], [16, 16]]
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}, image_grid_pinpoints=pinpoints, **NORM
    )
    settings = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = LlavaNextProcessor(images, tokenizer, chat_template=CHAT, **settings)
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 8, "patch_size": PATCH, "projection_dim": 32}
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=LlamaConfig(**text_config()),
        image_token_index=IMAGE_TOKEN,
        image_grid_pinpoints=pinpoints,
        image_seq_length=4,
    )
    model = LlavaNextForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.image_newline)
    return model, processor


def gemma3() -> Built:
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = begun_by_itself(word_tokenizer([*named.values()], "</s>", named))
    images = Gemma3ImageProcessorPil(size={"height": 16, "width": 16}, **NORM)
    chat = "<s>" + CHAT.replace("<image>", "<start_of_image>")
    processor = Gemma3Processor(images, tokenizer, chat_template=chat, image_seq_length=4)
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": PATCH, "vision_use_head": False}
    text = text_config(head_dim=D_HEAD, query_pre_attn_scalar=D_HEAD, sliding_window=64)
    text |= {"layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]}
    del text["rope_parameters"]  # Gemma has one for each kind of layer
    config = Gemma3Config(
        vision_config=vision,
        text_config=text,
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
        tie_word_embeddings=False,
    )
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)  # else 0
    return model, processor


def internvl() -> Built:
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    named["video_token"] = "<video>"
    tokenizer = word_tokenizer([*named.values()], "</s>", named)
    images = GotOcr2ImageProcessorPil(size={"height": 8, "width": 8}, min_patches=1, max_patches=3, **NORM)
    processor = without_video(
        InternVLProcessor,
        images,
        tokenizer,
        image_seq_length=1,
        chat_template=CHAT.replace("<image>", "<IMG_CONTEXT>"),
    )
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": [8, 8], "patch_size": [PATCH, PATCH]}
    config = InternVLConfig(
        vision_config=vision,
        text_config=text_config(model_type="qwen2"),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=1,
        tie_word_embeddings=False,
    )
    return InternVLForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[], Built]] = {
    build.__name__: build
    for build in (
        qwen2_5_vl,
        mllama,
        chameleon,
        chameleon_swin,
        llava_onevision,
        llava_next,
        gemma3,
        internvl,
        qwen3_vl,
    )
}


def save_tiny_family(name: str, folder: Path) -> None:
    """A checkpoint of the family; it speaks objects alone, and its captions differ between images."""
    torch.manual_seed(7)
    model, processor = FAMILIES[name]()
    with torch.no_grad():
        for part, weight in model.get_decoder().layers.named_parameters():
            if part.endswith("q_norm.weight"):  # else attention would be close to uniform
                weight.add_(3)
            elif weight.ndim == 2 and "norm" not in part:
                weight.normal_(std=0.4)
    objects = range(len(WORDS), N_WORDS)
    model.generation_config.suppress_tokens = [i for i in range(VOCABULARY) if i not in objects and i != 2]
    model.generation_config.repetition_penalty = 3.0  # as Qwen2.5-VL's has one; decoding is to ignore it
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
