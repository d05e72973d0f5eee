"""Yes-or-no questions about images, answered by generated text and by the probabilities of yes and no."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from llava_hh.data.images import image_path, load_image
from llava_hh.generation import Decoding, Method, answer_within_memory
from llava_hh.hooks import intervene
from llava_hh.memory import fit_in_memory
from llava_hh.models.lvlm import Batch, Lvlm
from llava_hh.runs import Run

WORDS = {"yes": ("Yes", "yes", "YES", " Yes", " yes"), "no": ("No", "no", "NO", " No", " no")}


def word_token_ids(lvlm: Lvlm) -> dict[str, list[int]]:
    """The tokens that are the whole word yes, or no, in the spellings of WORDS.

    Raises:
        ValueError: the vocabulary has no such token.
    """
    found = {}
    for word, spellings in WORDS.items():
        ids = {tuple(lvlm.tokenizer(spelling, add_special_tokens=False).input_ids) for spelling in spellings}
        found[word] = sorted({own[0] for own in ids if len(own) == 1} - {lvlm.tokenizer.unk_token_id})
        if not found[word]:
            raise ValueError(f"the tokenizer has no token for the word {word}; its probability is not defined")
    return found


@torch.no_grad()
def yes_share(lvlm: Lvlm, batch: Batch, method: Method) -> list[float] | None:
    """Probability of yes as the first answer token, over that of yes or no, per row; None under a decoder.

    Both are sums over the tokens of `word_token_ids`, from one forward pass of the prompt under the interventions.
    """
    if isinstance(method, Decoding):
        return None
    with intervene(lvlm.model, batch.image_mask, method) if method else nullcontext():
        logits: Tensor = lvlm.model(**batch.inputs, logits_to_keep=1).logits[:, -1].float()
    yes, no = (logits[:, ids].logsumexp(-1) for ids in word_token_ids(lvlm).values())
    return (yes - no).sigmoid().tolist()


def _shares(
    lvlm: Lvlm, images: Sequence[Image], prompts: Sequence[str], method: Method, size: int
) -> list[float] | None:
    """`yes_share` in batches of `size`."""
    parts = [slice(first, first + size) for first in range(0, len(images), size)]
    found = [yes_share(lvlm, lvlm.encode(images[part], prompts[part]), method) for part in parts]
    return None if None in found else [share for shares in found for share in shares]


def ask(
    lvlm: Lvlm,
    questions: Sequence[dict],
    image_folder: Path,
    run: Run,
    *,
    suffix: str,
    max_new_tokens: int,
    batch_size: int,
    method: Method = (),
    label: str = "answers",
) -> list[dict]:
    """Answer questions block by block and write answers.jsonl, one row per question in the order of `questions`.

    Args:
        questions: as `llava_hh.data.pope` makes them; suffix: what follows the text of each in the prompt.
        method: interventions under greedy decoding, or a decoder.
    Returns: the rows: the question with `prompt`, `answer` (the text), `token_ids`, and, unless by a decoder, `p_yes`
        (`yes_share`) and `answer_by_logits`, yes where that is more than a half.
    Raises:
        ValueError: an image that can't be read; or a vocabulary without yes and no.
    """
    word_token_ids(lvlm)  # stops here, before any work, where there are none
    for number, block in run.blocks(questions, batch_size, label):
        files = {question["image"]: load_image(image_path(image_folder, question["image"])) for question in block}
        images = [files[question["image"]] for question in block]
        prompts = [question["text"] + suffix for question in block]
        answers, seconds, sub_batch = answer_within_memory(lvlm, block, images, method, prompts, max_new_tokens)
        shares, _ = fit_in_memory(partial(_shares, lvlm, images, prompts, method), sub_batch or len(block))
        rows = []
        for place, (question, answer) in enumerate(zip(block, answers, strict=True)):
            row = {**question, "prompt": prompts[place], "answer": lvlm.answer_text(answer.token_ids)}
            row["token_ids"] = answer.token_ids
            if shares is not None:
                row["p_yes"] = round(shares[place], 6)
                row["answer_by_logits"] = "yes" if shares[place] > 0.5 else "no"
            rows.append(row)
        run.finish_block(number, block, rows, seconds=seconds, sub_batch=sub_batch)
    run.write_rows("answers.jsonl")
    return run.finished_rows()
