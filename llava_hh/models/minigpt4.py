"""MiniGPT-4 on Llama-2, asked as the paper's harness asks it, or as MiniGPT-4 was trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_hh.models import chat
from llava_hh.models.llava_harness import harness_answer
from llava_hh.models.minigpt4_checkpoint import assemble, stored_tensors
from llava_hh.models.minigpt4_model import IMAGE_TOKEN, MiniGpt4ForConditionalGeneration, MiniGpt4Processor
from llava_hh.models.without_code import from_folder

# What stands before and after a question, by the field `prompt` of a checkpoint's config.json. "harness", the default,
# is what the paper's comparison used: the words of MiniGPT-4 on Vicuna. "official" is MiniGPT-4's own for Llama-2.
PROMPTS = {"harness": ("###Human: ", " ###Assistant:"), "official": ("[INST] ", " [/INST] ")}


class MiniGpt4(chat.ChatFamily):
    """A folder of ours that names the published parts, or one that `save_pretrained` left."""

    model_class = MiniGpt4ForConditionalGeneration
    processor_class = MiniGpt4Processor
    stored_tensors = staticmethod(stored_tensors)

    def load(self, path: Path, **options: Any) -> tuple[MiniGpt4ForConditionalGeneration, MiniGpt4Processor]:
        """The model and its processor.

        Raises:
            FileNotFoundError: a part that is not there.
            ValueError: a prompt that is not known, weights that are missing, or a part that is damaged or does not fit.
        """
        config = from_folder(self.model_class.config_class, path)
        if config.prompt not in PROMPTS:
            raise ValueError(f"{path / 'config.json'}: prompt {config.prompt!r}; expected one of: {', '.join(PROMPTS)}")
        self.opening, self.closing = PROMPTS[config.prompt]
        self.drops_sentences = config.prompt == "harness"
        if config.parts is None:
            model = chat.load_whole(self.model_class, path, **options)
            processor = from_folder(self.processor_class, path)
        else:
            model, processor = assemble(path, config, **options)
        self.image_ids = [model.config.image_token_id] * model.config.image_length
        return model, processor

    def encode(self, processor: MiniGpt4Processor, images: chat.Images, questions: Sequence[str]) -> chat.Encoded:
        """Token ids of each row, with the image's expanded, and the other inputs of the model.

        Text before and after the image is tokenised on its own. An image is squashed to a square.

        Raises:
            ValueError: a question that holds the placeholder itself.
        """
        chat.refuse_image_token(IMAGE_TOKEN, questions)
        texts = [
            f"{self.opening}{question if image is None else f'<Img>{IMAGE_TOKEN}</Img> {question}'}{self.closing}"
            for image, question in zip(images, questions, strict=True)
        ]
        begin = [processor.tokenizer.bos_token_id]
        rows = chat.encode_around_image(processor, texts, IMAGE_TOKEN, self.image_ids, begin)
        shown = [image for image in images if image is not None]
        return rows, dict(processor.image_processor(shown, return_tensors="pt")) if shown else {}

    def answer_parts(
        self, processor: MiniGpt4Processor, turns: chat.Turns, with_image: bool, ends: Sequence[int]
    ) -> chat.AnswerParts:
        """The parts behind the first question.

        Llama's end token ends an answer under both prompts, as it ends a generated one.
        """
        return chat.answers_of_a_format(processor, turns, self.opening, self.closing, ends[0])

    def read_answer(self, text: str) -> str:
        """An answer without what follows "###", where the next turn would begin, or precedes "Assistant:".

        Source: MiniGPT-4's and the paper's harness's post-processing. The harness then drops sentences
            (`harness_answer`), and so does its prompt here.
        """
        kept = text.split("###")[0].split("Assistant:")[-1]
        return harness_answer(kept) if self.drops_sentences else kept
