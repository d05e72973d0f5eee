"""A random LLaVA as an ordinary checkpoint folder, with a tokenizer of mostly objects, and drawn images."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from llava_hh.mini.dataset import Split, write_split
from llava_hh.mini.world import CATEGORIES
from tests.support.tiny import SIDE, tiny_llava

WORDS = ["<pad>", "<s>", "</s>", "<unk>", ".", "a", "and", "the", "USER:", "ASSISTANT:", "describe"]
CHAT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {% else %} ASSISTANT:{% endif %}"
    "{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if m['role'] != 'user' %}</s> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


SINGLE_WORDS = [category for category in CATEGORIES if " " not in category]
N_WORDS = len(WORDS) + 2 * len(SINGLE_WORDS)


def word_tokenizer(special: list[str], end: str, named: dict[str, str] | None = None) -> PreTrainedTokenizerFast:
    """A token per word, 128 in all; `special` ones stand at 120 and before, some under a name of their own."""
    vocabulary = WORDS + SINGLE_WORDS + [f"{word}s" for word in SINGLE_WORDS]
    vocabulary += [f"<extra{place}>" for place in range(N_WORDS, 128)]
    for place, token in enumerate(reversed(special)):
        vocabulary[120 - place] = token
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token=end,
        unk_token="<unk>",
        additional_special_tokens=special,
        model_specific_special_tokens=named,
        padding_side="left",
    )


def save_tiny_checkpoint(folder: Path, n_kv: int = 2) -> None:
    """About 70k parameters; its greedy captions are strings of objects. Token 120 is the image."""
    images = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.25] * 3
    )
    processor = LlavaProcessor(
        images,
        word_tokenizer(["<image>"], "</s>"),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT,
    )
    model = tiny_llava(n_kv, seed=3)
    with torch.no_grad():
        for layer in model.model.language_model.layers:  # wider still, so that captions vary
            for weight in layer.parameters():
                if weight.ndim == 2:
                    weight *= 4
        model.lm_head.weight[: len(WORDS)] = model.lm_head.weight[N_WORDS:] = 0  # objects win
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def save_polled_checkpoint(source: Path, folder: Path) -> None:
    """A copy of the tiny checkpoint with words for yes and no, which it likes best; they begin at token N_WORDS."""
    shutil.copytree(source, folder)
    text = (folder / "tokenizer.json").read_text()
    for place, word in enumerate(("Yes", "yes", "No", "no")):
        text = text.replace(f'"<extra{N_WORDS + place}>"', f'"{word}"')
    (folder / "tokenizer.json").write_text(text)
    tensors = load_file(folder / "model.safetensors")
    [head] = [name for name in tensors if "lm_head" in name]
    noise = torch.randn(4, tensors[head].shape[1], generator=torch.Generator().manual_seed(0))
    tensors[head][N_WORDS : N_WORDS + 4] = 6 * tensors[head].std() * noise
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_tiny_coco(folder: Path, n_images: int = 14) -> None:
    for name, first_id in (("train2014", 100), ("val2014", 900)):
        write_split(Split(name, n_images, first_id, together=0.45), folder)
