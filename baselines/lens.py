"""What a hidden state of an inner layer would say: the model's final norm, to put before the vocabulary."""

from torch import nn
from transformers import PreTrainedModel

from llava_hh.decoding.method import CannotDecode

NAMES = ("norm", "final_layernorm", "ln_f")  # as transformers' decoders call it


def final_norm(model: PreTrainedModel) -> nn.Module:
    """The norm between the last decoder layer and the vocabulary.

    Raises:
        CannotDecode: there is none under the names that are known.
    """
    decoder = model.get_decoder()
    for name in NAMES:
        if isinstance(norm := getattr(decoder, name, None), nn.Module):
            return norm
    raise CannotDecode(f"{type(decoder).__name__} has no final norm under the names {', '.join(NAMES)}")
