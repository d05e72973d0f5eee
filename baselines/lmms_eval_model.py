"""Any of our models as a model of lmms-eval, greedy, under AD-HH, with heads removed, or by a decoder.

lmms-eval finds it by the entry point that setup.py names:
`python -m lmms_eval --model llava_hh --model_args model=FOLDER,method=adhh,heads=FILE,top_k=20 --tasks mme`
"""

from collections import defaultdict
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
        ValueError: an unknown method, one that lacks its heads, or wrong heads, top_k or threshold.
    """
    (spec,) = read_methods([method], {"adhh": {"top_k": top_k, "threshold": threshold}, "removal": {"top_k": top_k}})
    if spec.kind in GROUPS or spec.kind == "tfhh":
        raise ValueError(f"method={method}: expected one method; a fine-tuned model is a `model`")
    return make(spec, Material(lvlm, Path(heads) if heads else None, foreign_heads)).method


def check_settings(settings: dict) -> None:
    """Refuse a task's settings of decoding that are not greedy: only the method decides about sampling and beams.

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
        ValueError: a method that `choose_method` refuses; or several processes, for each would answer everything.
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
        groups = defaultdict(list)  # of indices, by the number of tokens
        for index, request in enumerate(requests):
            check_settings(request.args[1])
            groups[request.args[1].get("max_new_tokens") or self.max_new_tokens].append(index)
        with tqdm(total=len(requests), desc="answers") as bar:
            for longest, indices in groups.items():
                for first in range(0, len(indices), self.batch_size):
                    batch = indices[first : first + self.batch_size]
                    texts = self._answer([requests[index].args for index in batch], longest)
                    answers.update(zip(batch, texts, strict=True))
                    bar.update(len(batch))
        return [answers[index] for index in range(len(requests))]

    def loglikelihood(self, requests: list) -> list[tuple[float, bool]]:
        """Not offered: AD-HH decides token by token while it decodes."""
        raise NotImplementedError("llava_hh answers tasks that generate (generate_until); this one scores given text")

    def generate_until_multi_round(self, requests: list) -> list[str]:
        """Not offered: the methods answer single questions."""
        raise NotImplementedError("llava_hh answers single questions; this task has several rounds")

    def _answer(self, rows: list[tuple], max_new_tokens: int) -> list[str]:
        ids = [f"{task} {split} {number}" for *_, number, task, split in rows]
        batch = self.lvlm.encode([self._image(*row[2:]) for row in rows], [row[0] for row in rows], sample_ids=ids)
        answers = self.method.answer(self.lvlm, batch, max_new_tokens).answers
        texts = [self.lvlm.answer_text(answer.token_ids) for answer in answers]
        return [cut_at(text, row[1].get("until")) for text, row in zip(texts, rows, strict=True)]

    def _image(self, doc_to_visual: Any, number: int, task: str, split: str) -> Image | None:
        shown = doc_to_visual(self.task_dict[task][split][number]) or []
        if len(shown) > 1 or not all(isinstance(item, Image) for item in shown):
            kinds = ", ".join(type(item).__name__ for item in shown)
            raise ValueError(f"task {task}, row {number}: has {kinds}; llava_hh takes one image or none")
        return shown[0].convert("RGB") if shown else None
