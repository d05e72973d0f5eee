"""HALC without caches, one row at a time, and a detector and scorer that follow a script."""

import random
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from zlib import crc32

import torch
from PIL import Image

from llava_hh.baselines import dola
from llava_hh.baselines.halc import HalcSettings
from llava_hh.baselines.halc.windows import NOT_DETECTED, contrast_windows, crop, windows_around
from llava_hh.baselines.halc.words import checked_word
from llava_hh.baselines.stepping import end_ids
from llava_hh.models.lvlm import Lvlm

N_TOKENS = 14
loop = sys.modules["llava_hh.baselines.halc.decode"]  # the package has a function of that name
# with relative_top at 1 the base is greedy, so that windows now and then propose its word
SETTINGS = HalcSettings("scripted", "scripted", dola.DolaSettings(relative_top=1.0), expand_ratio=0.4)
BOXES = [(0.1, 0.2, 0.5, 0.9), (0.3, 0.3, 0.6, 0.6), (0.0, 0.0, 0.9, 0.4), (0.2, 0.1, 0.8, 0.7)]


class Detector:
    """From the word alone: 0 to 4 boxes, or None."""

    def __init__(self, always: int | None = None):
        self.always, self.asked = always, []

    def detect(self, image, word):
        self.asked.append(word)
        number = crc32(word.encode()) % 6 if self.always is None else self.always
        return None if number == 5 else BOXES[:number]


class Scorer:
    def score(self, image, texts):
        assert len(set(texts)) == len(texts) > 0
        return [crc32(f"{image.getpixel((0, 0))} {text}".encode()) % 1000 for text in texts]


def photo(seed: int) -> Image.Image:
    rng = random.Random(seed)
    return Image.frombytes("RGB", (24, 18), bytes(rng.randrange(256) for _ in range(3 * 24 * 18)))


def use(monkeypatch, detector: Detector) -> None:
    monkeypatch.setattr(loop, "load_detector", lambda settings: detector)
    monkeypatch.setattr(loop, "load_scorer", lambda settings: Scorer())


@torch.no_grad()
def slow_halc(
    lvlm: Lvlm,
    image,
    prompt: str,
    settings: HalcSettings,
    rng: random.Random,
    seen: Counter,
    edit: Callable = lambda batch, is_clean: nullcontext(),
) -> list[int]:
    """One caption of words that are one token each; everything is computed anew from prompt and caption.

    `edit` opens a block for the forwards of a batch, by whether they are of the whole image.
    """
    detector, scorer, ends = Detector(), Scorer(), end_ids(lvlm.model)
    text_of = lambda ids: lvlm.tokenizer.decode(ids, skip_special_tokens=True)  # noqa: E731
    context: list[tuple[int, bool]] = []  # token, whether the answer has it
    fixed = True  # the last word is not checked
    while len(context) < N_TOKENS:
        ids = [token for token, _ in context]
        batch = lvlm.encode([image], [prompt], [ids])
        with edit(batch, True):
            following = dola.decode(lvlm, batch, settings.base, 1)[0]
        if not fixed:
            own, before = ids[-1], ids[:-1]
            caption = [token for token, kept in context if kept]
            name = checked_word(text_of(caption), text_of([own]), settings, rng)
            boxes = detector.detect(image, name) if name else None
            seen["unchecked"] += boxes is None
            if boxes is not None and len(boxes) > 3:
                seen["too many"] += 1
            elif boxes is not None:
                box = NOT_DETECTED
                if boxes:
                    box = min(boxes, key=lambda each: (each[2] - each[0]) * (each[3] - each[1]))
                rows = []
                for window in windows_around(box, settings.expand_ratio):
                    shown = lvlm.encode([crop(image, window)], [prompt], [before])
                    with edit(shown, False):
                        rows.append(lvlm.model(**shown.inputs).logits[0, -1])
                logits = torch.stack(rows)
                logits[:, lvlm.model.generation_config.suppress_tokens or []] = -torch.inf
                proposed = dict.fromkeys(contrast_windows(logits, settings.candidates, settings.contrast_weight))
                so_far = [token for token, kept in context[:-1] if kept]
                scores = scorer.score(image, [text_of([*so_far, token]).strip() for token in proposed])
                chosen = max(zip(scores, [-place for place in range(len(scores))], proposed, strict=True))[2]
                word, piece = text_of([own]).strip(), text_of([chosen]).strip() or "?"
                if chosen != own and not word.startswith(piece) and not piece.startswith(word):
                    seen["replaced"] += 1
                    context[-1] = (chosen, True)
                    fixed = True
                    if chosen in ends:
                        context.pop()
                        break
                    continue
                seen["kept"] += bool(boxes)
                if not boxes and len(ids) >= 8:
                    seen["left out"] += 1
                    context[-1] = (own, False)
        if not following:
            break
        fixed = False
        context.append((following[0], True))
    return [token for token, kept in context if kept]
