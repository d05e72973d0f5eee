"""VTI, visual and textual intervention: states are steered towards stable image features, and truthful text."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self

from llava_hh.baselines.settings import CheckedSettings, Rule, at_least
from llava_hh.baselines.stepping import Stepper, TokenIds, decode_rows
from llava_hh.models.lvlm import Batch, Lvlm
from llava_hh.steering.bank import bank_path, read_bank
from llava_hh.steering.directions import steering

VECTORS = Rule('a file that prepare-vti makes, or "published"', lambda value: isinstance(value, str) and value != "")


@dataclass(frozen=True)
class VtiSettings(CheckedSettings):
    """Settings of VTI.

    Args:
        alpha_image, alpha_text: strength of the steering in the vision tower, and in the decoder; 0 is off.
        vectors: the file that `llava-hh prepare-vti` made for the model, or "published" for one that comes with the
            package.

    Raises:
        ValueError: a field that is not allowed.
    """

    alpha_image: Annotated[float, at_least(0)] = 0.9
    alpha_text: Annotated[float, at_least(0)] = 0.9
    vectors: Annotated[str, VECTORS] = "published"

    def tools(self) -> dict[str, Path]:
        """The file, or "published", by the name of its field."""
        return {"vectors": Path(self.vectors)}

    def of_model(self, lvlm: Lvlm) -> Self:
        """The same with the file for a model.

        Raises:
            ValueError: it is not there, or was made on another model.
        """
        return replace(self, vectors=str(bank_path(self.vectors, lvlm)))


PRESETS = {"vti": VtiSettings()}


def decode(lvlm: Lvlm, batch: Batch, settings: VtiSettings, max_new_tokens: int) -> TokenIds:
    """Decode greedily by VTI.

    Returns: the token ids of each row, without its end token.
    Raises:
        ValueError: a file of vectors that is damaged or does not fit.
        CannotDecode: the vision tower is to be steered, but is not like CLIP's, or the file has no vectors for it.
    Source: Liu et al., "Reducing Hallucinations in Large Vision-Language Models via Latent Space Steering" (ICLR 2025),
        and its code: 0.9 and 0.9 in its README's command, of vectors from 70 pairs.
    Differs: the code takes the longest list of modules for the decoder, which is the vision tower where that is deeper
        (Qwen2.5-VL), and halves the precision. `llava_hh.steering.directions` says how our vectors differ.
    """
    bank = read_bank(settings.vectors, lvlm.model)
    with steering(lvlm, bank.text, settings.alpha_text, bank.image, settings.alpha_image):
        return decode_rows(Stepper(lvlm.model, batch.inputs), lambda logits: logits.argmax(-1), max_new_tokens)
