"""HALC's loop: DoLa, and a check of every noun when it is complete."""

from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor

from llava_hh.baselines.dola import candidate_layers, layer_scores
from llava_hh.baselines.halc.detector import load_detector
from llava_hh.baselines.halc.scorer import load_scorer
from llava_hh.baselines.halc.settings import HalcSettings
from llava_hh.baselines.halc.windows import NOT_DETECTED, contrast_windows, crop, smallest, windows_around
from llava_hh.baselines.halc.words import added_text, begins_word, checked_word
from llava_hh.baselines.stepping import Stepper, TokenIds, end_ids
from llava_hh.decoding.method import NO_EDITS, CannotDecode, Edits
from llava_hh.models.lvlm import Batch, Lvlm

LEAST_TOKENS = 8  # of a caption, before a word may be left out
MOST_REPETITIONS = 8  # released: how often a token may follow itself


@torch.no_grad()
def decode(lvlm: Lvlm, batch: Batch, settings: HalcSettings, max_new_tokens: int, edits: Edits = NO_EDITS) -> TokenIds:
    """Decode by HALC, one row after the other; rows without an image by its base alone.

    A check takes one forward of four rows over prompt and caption, and one over them in a new cache where the word
    changes.

    Returns: the token ids of each row, without its end token. Words that were left out count as tokens. So an answer
        that lacks some is taken for one that ended by itself, even where it was cut off.
    Raises:
        ValueError: `max_new_tokens` below 1, a candidate layer that the model does not have, or a detector or scorer
            of another kind.
        FileNotFoundError: there is no such detector or scorer.
    Source: Chen et al., "HALC: Object Hallucination Reduction via Adaptive Focal-Contrast Decoding" (ICML 2024), its
        code, and the paper's harness: one beam.
    Differs: parts of speech by TextBlob's tagger, for spaCy's model is not on PyPI; in the clean variant of the word in
        its caption. Chance is seeded by the sample, and no check reseeds it. A word that replaced another is not
        checked again. Suppressed logits are left as they are; the code writes the mask of one window into others.
        The code's several beams are not offered.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    if edits.is_of_batch:
        raise CannotDecode("HALC looks at other images on its way, and the method under it is made for one batch")
    captions = (Caption(lvlm, batch, row, settings, edits) for row in range(len(batch.prompts)))
    return [caption.decode(max_new_tokens) for caption in captions]


@dataclass
class Caption:
    """One caption while it is being decoded.

    Attributes:
        ids: the tokens that the model has read.
        left_out: the positions of those that the answer lacks.
    """

    lvlm: Lvlm
    batch: Batch
    row: int
    settings: HalcSettings
    edits: Edits
    ids: list[int] = field(default_factory=list)
    left_out: set[int] = field(default_factory=set)
    word_start: int = 0
    settled: bool = False  # the word at word_start is not checked
    repetitions: int = 0

    def __post_init__(self) -> None:
        self.detector, self.scorer = load_detector(self.settings), load_scorer(self.settings)
        self.ends, self.tokenizer = end_ids(self.lvlm.model), self.lvlm.tokenizer
        self.layers = candidate_layers(self.lvlm.model, self.settings.base)
        self.image = self.batch.images[self.row]
        self.rng = Random(f"{self.settings.seed} {self.batch.sample_ids[self.row]}")

    def answer(self, end: int | None = None) -> list[int]:
        """The tokens up to position `end`, without those that are left out."""
        return [token for position, token in enumerate(self.ids[:end]) if position not in self.left_out]

    def decode(self, max_new_tokens: int) -> list[int]:
        """The whole answer; every replaced word starts a new cache."""
        while not self._extend(max_new_tokens):
            pass
        return self.answer()

    def _extend(self, max_new_tokens: int) -> bool:
        """Add tokens until the answer is done (True) or a word was replaced (False)."""
        shown = self._encode([self.image], self.ids)
        stepper = Stepper(self.lvlm.model, shown.inputs)
        with stepper.watch(self.layers) as hidden:
            logits = self._step(stepper, shown)
            while len(self.ids) < max_new_tokens:
                token = int(layer_scores(stepper, hidden, self.layers, logits, self.settings.base).argmax(-1))
                added = added_text(self.tokenizer, self.ids, token)
                begins = token in self.ends or begins_word(added, self.settings.variant)
                if begins and not self.settled and (replacement := self._check()) is not None:
                    del self.ids[self.word_start :]
                    self.settled = True
                    return not self._append(replacement)
                if begins:
                    self.word_start, self.settled = len(self.ids), False
                if not self._append(token) or len(self.ids) == max_new_tokens:
                    return True
                logits = self._step(stepper, shown, torch.tensor([token]))
        return True

    def _append(self, token: int) -> bool:
        """Add a token; False if the caption ends with it."""
        if token in self.ends:
            return False
        self.repetitions += bool(self.ids) and token == self.ids[-1]
        self.ids.append(token)
        return self.settings.variant == "clean" or self.repetitions <= MOST_REPETITIONS

    def _check(self) -> int | None:
        """Check the word that ends here: return a token to replace it by, or None; the word may be left out.

        Where the windows choose the first token of the word, or one that reads as its beginning, the word stays, unless
        the detector saw nothing.
        """
        word_ids = self.ids[self.word_start :]
        if self.image is None or not word_ids:
            return None
        word, caption = self._text(word_ids), self._text(self.answer())
        name = checked_word(caption, word, self.settings, self.rng)
        boxes = None if name is None else self.detector.detect(self.image, name)
        if boxes is None or len(boxes) > self.settings.max_boxes:
            return None
        chosen = self._choose(smallest(boxes) if boxes else NOT_DETECTED)
        piece, word = self._text([chosen]).strip(), word.strip()
        reads_alike = bool(piece) and (word.startswith(piece) or piece.startswith(word))
        if chosen != word_ids[0] and not reads_alike:
            return chosen
        if not boxes and len(self.ids) >= LEAST_TOKENS:
            self.left_out |= set(range(self.word_start, len(self.ids)))
        return None

    def _choose(self, box: tuple[float, float, float, float]) -> int:
        """Of the tokens that the windows propose for the start of the word, the one that fits the image best."""
        windows = [crop(self.image, window) for window in windows_around(box, self.settings.expand_ratio)]
        shown = self._encode(windows, self.ids[: self.word_start])
        logits = self._step(Stepper(self.lvlm.model, shown.inputs), shown)
        tokens = contrast_windows(logits, self.settings.candidates, self.settings.contrast_weight)
        before, proposed = self.answer(self.word_start), list(dict.fromkeys(tokens))
        scores = self.scorer.score(self.image, [self._text([*before, token]).strip() for token in proposed])
        return proposed[scores.index(max(scores))]

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def _encode(self, images: list, ids: list[int]) -> Batch:
        """The prompt with each of the images, followed by the caption so far."""
        return self.lvlm.encode(images, [self.batch.prompts[self.row]] * len(images), [ids] * len(images))

    def _step(self, stepper: Stepper, shown: Batch, tokens: Tensor | None = None) -> Tensor:
        """A step under the edits; the block is closed behind it, for the windows of a check are another batch."""
        is_clean = torch.full((len(shown.image_mask),), len(shown.image_mask) == 1)  # windows are the other branches
        with self.edits.open(self.lvlm.model, shown.image_mask, is_clean, shown.response_start):
            return stepper.step(tokens)
