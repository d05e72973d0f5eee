"""What `explain` finds: captions of one image, the heads behind each word, where these look, when heads fired."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from llava_hh.api.attribution import largest
from llava_hh.files.files import refuse_foreign, write_json, write_text
from llava_hh.heads import Head
from llava_hh.models.image_grid import ImageGrid
from llava_hh.report.explanation import render_explanation
from llava_hh.report.heads import rounded
from llava_hh.runs.run import provenance

IN_WORDS = {None: "", True: " (hallucinated)", False: " (in the image)"}


@dataclass(frozen=True)
class Look:
    """Where a head looks as a word is chosen: fractions of its attention.

    Attributes:
        mass: on each of `measures.attention_bias.PARTS`.
        on_image: (token,) each image token, row by row where the image has a grid.
        on_text: (token,) each token after the image, of the prompt and of the answer so far.
        read: what it reads, attention times the norm of the value, as shares: `image`, all image tokens, and `tokens`,
            the most read ones of the text after the image, [index in on_text, share] each.
    """

    mass: dict[str, float]
    on_image: np.ndarray
    on_text: np.ndarray
    read: dict[str, Any]


@dataclass(frozen=True)
class ExplainedWord:
    """A word of a caption, at its characters [start, end); its first token is the `token`-th of the answer, from 0.

    Attributes:
        node: its category, or the word itself where it is of none.
        hallucinated: whether the image lacks that; None where no truth was given.
        probability: of the first token; influence: (layer, head), that minus the probability without the head.
        looks: by head, of those that influence the word most and of those that AD-HH may switch off.
    """

    word: str
    node: str
    start: int
    end: int
    token: int
    hallucinated: bool | None
    probability: float
    influence: np.ndarray
    looks: dict[Head, Look]

    def top(self, k: int = 5) -> list[tuple[Head, float]]:
        """The k heads of largest influence, and their influence."""
        return largest(self.influence, k)


@dataclass(frozen=True)
class ExplainedCaption:
    """A caption by one method, with its words.

    Attributes:
        tokens: what each token adds to the text, without the end token, which followed if finish_reason is "stop".
        fired: by head, the tokens at which it was switched off, from 0; the end token may be among them.
    """

    label: str
    caption: str
    tokens: list[str]
    finish_reason: str
    words: list[ExplainedWord]
    fired: dict[Head, list[int]]

    def __str__(self) -> str:
        lines, decided = [f"{self.label}: {self.caption}"], len(self.tokens) + (self.finish_reason == "stop")
        for word in self.words:
            heads = ", ".join(f"{head} {value:+.3f}" for head, value in word.top(3))
            judged = IN_WORDS[word.hallucinated]
            lines.append(f"  {word.word}{judged}: probability {word.probability:.3f}; influence of {heads}")
        lines += [f"  {head} was switched off at {len(at)} of {decided} tokens" for head, at in self.fired.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Explanation:
    """An image's caption by greedy decoding and under AD-HH, explained.

    Attributes:
        image: the file's name; heads, threshold: of AD-HH; truth: the objects in the image, where they were given.
        prompt_tokens: those between image and answer; grid: how the n_image image tokens lie over the picture, None
            where the family can't say.
    """

    image: str
    picture: Image
    heads: tuple[Head, ...]
    threshold: float
    truth: list[str] | None
    prompt_tokens: list[str]
    n_image: int
    grid: ImageGrid | None
    greedy: ExplainedCaption
    adhh: ExplainedCaption

    def content(self) -> dict[str, Any]:
        """All of it but the picture, JSON-ready: the keys of explanation.json in docs/files.md."""
        names = ("image", "threshold", "truth", "prompt_tokens", "n_image")
        return {
            **{name: getattr(self, name) for name in names},
            "heads": [list(head) for head in self.heads],
            "grid": None if self.grid is None else self.grid._asdict(),
            "captions": [_content_of(caption) for caption in (self.greedy, self.adhh)],
        }

    def page(self, path: str | Path, **about: Any) -> None:
        """Write all of it as a page to look at, and beside it as JSON.

        Args:
            path: of the page; about: further keys of the JSON file.
        Raises:
            ValueError: a name that does not end with .html.
            FileExistsError: one of the two is there, and this package did not write it.
        """
        path = Path(path)
        if path.suffix != ".html":
            raise ValueError(f"{path}: expected a name that ends with .html")
        content = {**self.content(), **about, "run": provenance()}
        text = render_explanation(content, self.picture, f"{path.stem}.json")
        for file in (path, path.with_suffix(".json")):
            refuse_foreign(file)
        write_json(path.with_suffix(".json"), content)
        write_text(path, text)

    def __str__(self) -> str:
        return f"{self.greedy}\n{self.adhh}"


def _content_of(caption: ExplainedCaption) -> dict[str, Any]:
    fired = [{"head": list(head), "tokens": at} for head, at in caption.fired.items()]
    names = ("label", "caption", "tokens", "finish_reason")
    return {**{name: getattr(caption, name) for name in names}, "words": [*map(_row_of, caption.words)], "fired": fired}


def _row_of(word: ExplainedWord) -> dict[str, Any]:
    names = ("word", "node", "start", "end", "token", "hallucinated")
    measured = {"probability": rounded(word.probability), "influence": rounded(word.influence.tolist())}
    looks = [
        {
            "head": list(head),
            **{part: rounded(mass) for part, mass in look.mass.items()},
            "on_image": rounded(look.on_image.tolist()),
            "on_text": rounded(look.on_text.tolist()),
            "read": look.read,
        }
        for head, look in word.looks.items()
    ]
    return {**{name: getattr(word, name) for name in names}, **measured, "looks": looks}
