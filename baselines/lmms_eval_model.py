"""Any of our models as a model of lmms-eval, greedy, under AD-HH, with heads removed, or by a decoder.

lmms-eval finds it by the entry point that setup.py names:
`python -m lmms_eval --model llava_hh --model_args model=FOLDER,method=adhh,heads=FILE,top_k=20 --tasks mme`
"""

from pathlib import Path
from typing import Any

from PIL.Image import Image
from tqdm import tqdm

from llava_hh.decoding.making import Material, make
from llava_hh.decoding.method import Method
from llava_hh.decoding.reading import read_methods
from llava_hh.decoding.registry import GROUPS
from llava_hh.models.lvlm import Lvlm, load_lvlm
from llava_hh.runs.run import processes

try:
    from lmms_eval.api.model import lmms as LmmsEvalModel
except ImportError:  # an extra; every module of ours imports without it
    LmmsEvalModel = object

GREEDY = {"do_sample": (None, False), "temperature": (None, 0, 0.0), "num_beams": (None, 1)}


def manifest() -> Any:
    """What lmms-eval's registry takes: the name `llava_hh` and the class behind it."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="llava_hh", simple_class_path=f"{__name__}.HallucinationHeadsModel")


def choose_method(
    lvlm: Lvlm, method: str, heads: str | None, top_k: int, threshold: float, foreign_heads: bool
) -> Method:
    """The method of that name for a loaded model; `heads`, `top_k` and `threshold` are those of adhh and removal.

    Raises:
        ValueError: an unknown method, or one that lacks its heads; or heads, top_k or threshold that cannot be.
    """
    (spec,) = read_methods([method], {"adhh": {"top_k": top_k, "threshold": threshold}, "removal": {"top_k": top_k}})
    if spec.kind in GROUPS or spec.kind == "tfhh":
        raise ValueError(f"method={method}: expected one method; a fine-tuned model is a `model`")
    material = Material(lvlm, Path(heads) if heads else None, foreign_heads)
    return make(spec, material).method


def check_settings(settings: dict) -> None:
    """Refuse what a task asks of decoding and we do not do: sampling and beams are the method's own affair.

    Raises:
        ValueError: names the setting.
    """
    for name, allowed in GREEDY.items():
        if settings.get(name) not in allowed:
            raise ValueError(f"{name}={settings[name]}: the method says how to decode; expected {allowed[-1]} or none")


def cut_at(text: str, ends: str | list[str] | None) -> str:
    """The text before the first of `ends`."""
    for end in [ends] if isinstance(ends, str) else ends or []:
        text = text.split(end)[0] if end else text
    return text


class HallucinationHeadsModel(LmmsEvalModel):
    """A checkpoint folder and a method. DTYPE, DEVICE_MAP and BITS of the environment say how it is loaded.

    Args:
        model: the checkpoint folder.
        method: such as adhh, removal (which zeroes the heads everywhere) or vcd_paper, as `llava-hh caption` takes it;
            lmms-eval parts its arguments at commas, so one that has several fields is for Python. A fine-tuned model
            (TF-HH) is a `model`.
        heads, top_k, threshold: of adhh and removal; `published` is the list of the paper's authors.
        foreign_heads: allow a list that was found on another model.
        batch_size: rows of one batch, from `--batch_size`.
        max_new_tokens: where a task says none.

    Raises:
        ValueError: as `choose_method`; or several processes, which would each answer everything.
    """

    is_simple = True

    def __init__(
        self,
        model: str,
        method: str = "greedy",
        heads: str | None = None,
        top_k: int = 20,
        threshold: float = 0.4,
        foreign_heads: bool = False,
        batch_size: int | str = 1,
        max_new_tokens: int = 128,
    ) -> None:
        super().__init__()
        if processes().count > 1:
            raise ValueError("the lmms-eval model runs in one process; DEVICE_MAP=auto spreads a model over GPUs")
        self.lvlm = load_lvlm(model)
        self.method = choose_method(self.lvlm, method, heads, top_k, threshold, foreign_heads)
        self.batch_size, self.max_new_tokens = int(batch_size), max_new_tokens

    def generate_until(self, requests: list) -> list[str]:
        """The answers to lmms-eval's requests, in their order, each cut at the task's `until`.

        Raises:
            ValueError: a question with several images or with something that is no image, or settings that are not
                greedy.
        """
        answers: dict[int, str] = {}
        groups: dict[int, list[int]] = {}
        for place, request in enumerate(requests):
            settings = request.args[1]
            check_settings(settings)
            groups.setdefault(settings.get("max_new_tokens") or self.max_new_tokens, []).append(place)
        with tqdm(total=len(requests), desc="answers") as bar:
            for longest, places in groups.items():
                for first in range(0, len(places), self.batch_size):
                    batch = places[first : first + self.batch_size]
                    texts = self._answer([requests[place].args for place in batch], longest)
                    answers.update(zip(batch, texts, strict=True))
                    bar.update(len(batch))
        return [answers[place] for place in range(len(requests))]

    def loglikelihood(self, requests: list) -> list[tuple[float, bool]]:
        """Not there: AD-HH decides token by token while it decodes."""
        raise NotImplementedError("llava_hh answers tasks that generate (generate_until); this one scores given text")

    def generate_until_multi_round(self, requests: list) -> list[str]:
        """Not there: one question, one answer."""
        raise NotImplementedError("llava_hh answers single questions; this task has several rounds")

    def _answer(self, rows: list[tuple], max_new_tokens: int) -> list[str]:
        prompts = [context for context, *_ in rows]
        images = [self._image(*row[2:]) for row in rows]
        ids = [f"{task} {split} {number}" for _, _, _, number, task, split in rows]
        batch = self.lvlm.encode(images, prompts, sample_ids=ids)
        answers = self.method.answer(self.lvlm, batch, max_new_tokens).answers
        texts = [self.lvlm.answer_text(answer.token_ids) for answer in answers]
        return [cut_at(text, row[1].get("until")) for text, row in zip(texts, rows, strict=True)]

    def _image(self, doc_to_visual: Any, number: int, task: str, split: str) -> Image | None:
        found = doc_to_visual(self.task_dict[task][split][number])
        if len(found or []) > 1 or not all(isinstance(each, Image) for each in found or []):
            kinds = ", ".join(type(each).__name__ for each in found)
            raise ValueError(f"task {task}, row {number}: has {kinds}; llava_hh takes one image or none")
        return found[0].convert("RGB") if found else None
