"""Where heads look when a word is about to be said: their attention over the image and the text, kept small.

A word's codes are one byte a key. With n image tokens, p prompt tokens after the image and i answer tokens before the
word, each head has n + p + i of them, image first; a code c stands for an attention of c / 255 times the head's largest
on the image or on the text, which are kept apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from llava_hh.attention.call import AttentionCall
from llava_hh.attention.hooks import observe
from llava_hh.attention.spans import after_last_image
from llava_hh.attribution.targets import Target, token_ends
from llava_hh.experiments.measures.attention_bias import attention_rows, part_masks
from llava_hh.experiments.measures.codes import MOST_READ, encode_weights
from llava_hh.heads import Head
from llava_hh.models.image_grid import ImageGrid
from llava_hh.models.lvlm import Batch, Lvlm


@dataclass(frozen=True)
class Looks:
    """Where heads look as words of one answer are chosen.

    Attributes:
        seen: for each word (head, key) fractions: the image's tokens, then the text after it up to the word.
        read: like `seen`, attention times the norm of the value there, as a share of the sum over all keys, since
            attention may lie on a value of nearly 0.
        parts: (word, head, part) fractions, by `measures.attention_bias.PARTS`.
        tokens: the text of each token after the image; the first n_prompt of them are the prompt's.
        grid: how the n_image image tokens lie over the picture; None where the family can't say.
    """

    seen: list[np.ndarray]
    read: list[np.ndarray]
    parts: np.ndarray
    tokens: list[str]
    n_prompt: int
    n_image: int
    grid: ImageGrid | None

    def row(self) -> dict:
        """What says how the keys of `seen` lie, JSON-ready."""
        about = {name: getattr(self, name) for name in ("tokens", "n_prompt", "n_image")}
        return {**about, "grid": None if self.grid is None else self.grid._asdict()}

    def most_read(self, word: int) -> list[dict]:
        """For each head what it reads at a word: `image`, the share of all image tokens, and `tokens`, the MOST_READ of
        the text after the image, each [index, share], JSON-ready.
        """
        found = []
        for image, text in zip(*np.split(self.read[word], [self.n_image], axis=1), strict=True):
            order = np.argsort(-text, kind="stable")[:MOST_READ]
            tokens = [[int(index), round(float(text[index]), 6)] for index in order if text[index] > 0]
            found.append({"image": round(float(image.sum()), 6), "tokens": tokens})
        return found


def token_texts(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; a token that ends inside a character adds nothing, the one that ends it all."""
    text, ends = token_ends(tokenizer, token_ids, skip_special_tokens=False)
    return [text[start:end] for start, end in pairwise([0, *ends])]


def looks_at(lvlm: Lvlm, positions: Sequence[int], batch: Batch, heads: Sequence[Head]) -> Looks:
    """Where heads look at the positions that predict words.

    Args:
        batch: one row, an image with its prompt and the whole answer.
    """
    norms: dict[Head, torch.Tensor] = {}

    def keep(layer: int, of_layer: torch.Tensor, call: AttentionCall) -> None:
        lengths = call.values(of_layer)[0].float().norm(dim=-1).cpu()  # head key
        norms.update(zip((Head(layer, head) for head in of_layer.tolist()), lengths, strict=True))

    with observe(lvlm.model, heads, keep):
        [maps] = attention_rows(lvlm, batch, [positions], heads)
    read = maps * torch.stack([norms[Head(*head)] for head in heads])
    read /= read.sum(-1, keepdim=True).clamp_min(torch.finfo(read.dtype).tiny)
    image, start = batch.image_mask[0].cpu(), batch.response_start[0]
    text = after_last_image(image[None], len(image))[0]

    def of_keys(rows: torch.Tensor) -> list[np.ndarray]:
        """Of (word, head, key): those of the image, and of the text up to each word."""
        return [
            torch.cat([weights[:, image], weights[:, : position + 1][:, text[: position + 1]]], dim=1).numpy()
            for weights, position in zip(rows, positions, strict=True)
        ]

    return Looks(
        of_keys(maps),
        of_keys(read),
        (maps @ part_masks(image, start).T).numpy(),
        token_texts(lvlm.tokenizer, batch.inputs["input_ids"][0].cpu()[text].tolist()),
        n_prompt=int(text[:start].sum()),
        n_image=int(image.sum()),
        grid=lvlm.image_grid(batch),
    )


def measure_caption(
    lvlm: Lvlm, entry: dict, targets: Sequence[Target], positions: Sequence[int], batch: Batch, heads: Sequence[Head]
) -> tuple[dict, dict[str, np.ndarray]]:
    """A row of word_maps.json and the arrays of one caption: `codes` (byte,), `scales` (word, head, 2), `parts`.

    Args:
        targets, positions, batch: what `TeacherForced.prepare` makes of `entry`.
    """
    looks = looks_at(lvlm, positions, batch, heads)
    encoded = [encode_weights(seen, looks.n_image) for seen in looks.seen]
    row = {"image_id": entry["image_id"], **looks.row(), "words": []}
    for word, target in enumerate(targets):
        row["words"].append({**target.row(), "read": looks.most_read(word)})
    arrays = {
        "codes": np.concatenate([codes.ravel() for codes, _ in encoded]),
        "scales": np.stack([scales for _, scales in encoded]),
        "parts": looks.parts,
    }
    return row, arrays
