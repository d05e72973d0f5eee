"""Yes-or-no questions about images, answered by generated text and by the probabilities of yes and no."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from llava_hh.decoding.generation import answer_within_memory
from llava_hh.decoding.method import PREPARING, Greedy, Method
from llava_hh.files.images import image_path, load_image
from llava_hh.files.module_hooks import hooked
from llava_hh.models.lvlm import Lvlm
from llava_hh.runs.blocks import Run

WORDS = {"yes": ("Yes", "yes", "YES", " Yes", " yes"), "no": ("No", "no", "NO", " No", " no")}


def word_token_ids(lvlm: Lvlm) -> dict[str, list[int]]:
    """The token ids that are the whole word yes, or no, in the spellings of WORDS.

    Raises:
        ValueError: the vocabulary has no such token.
    """
    tokens = {}
    for word, spellings in WORDS.items():
        spelled = [lvlm.tokenizer(spelling, add_special_tokens=False).input_ids for spelling in spellings]
        tokens[word] = sorted({ids[0] for ids in spelled if len(ids) == 1} - {lvlm.tokenizer.unk_token_id})
        if not tokens[word]:
            raise ValueError(f"the tokenizer has no token for the word {word}; its probability is not defined")
    return tokens


@contextmanager
def collecting_yes_shares(lvlm: Lvlm, shares: list[float]) -> Iterator[None]:
    """Append p(yes) over p(yes or no) as the first answer token, for each row of each prompt that passes the model.

    Both are sums over the tokens of `word_token_ids`, under the interventions that are open.
    """
    words = word_token_ids(lvlm)

    def note(_: nn.Module, args: tuple, given: dict[str, Any], output: Any) -> None:
        tokens = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        if tokens.shape[1] > 1 and PREPARING not in lvlm.model.__dict__:  # a step of an answer has one
            logits: Tensor = output.logits[:, -1].float()
            yes, no = (logits[:, words[word]].logsumexp(-1) for word in ("yes", "no"))
            shares.extend((yes - no).sigmoid().tolist())

    with hooked([(lvlm.model, note)], with_kwargs=True):
        yield


def ask(
    lvlm: Lvlm,
    questions: Sequence[dict],
    image_folder: Path,
    run: Run,
    *,
    suffix: str,
    max_new_tokens: int,
    batch_size: int,
    method: Method,
    label: str = "answers",
) -> list[dict]:
    """Answer questions block by block and write answers.jsonl, one row per question in the order of `questions`.

    Args:
        questions: rows of `llava_hh.data.pope`; suffix: what follows the text of each in the prompt.
    Returns: the rows: the question with `prompt`, `answer` (the text), `token_ids`, and, unless by a decoder, `p_yes`
        (`collecting_yes_shares`) and `answer_by_logits`, yes where that is more than a half.
    Raises:
        ValueError: an image that can't be read; or a vocabulary without yes and no.
    """

    def image_of(question: dict) -> Path:
        return image_path(image_folder, question["image"])

    read = lru_cache(maxsize=1)(load_image)  # the questions about an image follow each other

    def load(question: dict) -> Image.Image:
        return read(image_of(question))

    for number, block in run.blocks(questions, batch_size, label, image_of):
        prompts = [question["text"] + suffix for question in block]
        shares: list[float] = []
        with collecting_yes_shares(lvlm, shares) if isinstance(method, Greedy) else nullcontext():
            answers, spent = answer_within_memory(lvlm, block, load, method, prompts, max_new_tokens)
        rows = [
            {**question, "prompt": prompt, "answer": lvlm.answer_text(answer.token_ids), "token_ids": answer.token_ids}
            for question, prompt, answer in zip(block, prompts, answers, strict=True)
        ]
        # shares before the last ones are of batches that memory had no room for
        for row, share in zip(rows, shares[-len(block) :], strict=bool(shares)):
            row |= {"p_yes": round(share, 6), "answer_by_logits": "yes" if share > 0.5 else "no"}
        run.finish_block(number, block, rows, **spent)
    run.write_rows("answers.jsonl")
    return run.finished_rows()
