"""What inner layers would say: which of them are asked, and the final norm, to put before the vocabulary."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from llava_hh.baselines.settings import Rule
from llava_hh.decoding.head_lists import scaled_layers
from llava_hh.decoding.method import CannotDecode

NAMES = ("norm", "final_layernorm", "ln_f")  # as transformers' decoders call it


def _is_range(value: Any) -> bool:
    return value is None or (isinstance(value, tuple) and len(value) == 2 and 0 <= value[0] <= value[1])


RANGE = Rule("None, or the first and the last of some layers", _is_range)


def layers_of(n_layers: int, named: tuple[int, int], given: tuple[int, int] | None, what: str) -> list[int]:
    """The layers from a first to a last one.

    Args:
        named: of 32, as a paper names them; in a model of another depth the first is rounded up and the last down.
        given: others; None is none.
    Raises:
        ValueError: some that the model does not have, or none; names `what` asks for them.
    """
    first, last = given or scaled_layers(named, n_layers)
    if not first <= last < n_layers:
        asked = f"layers {first} to {last}"
        raise ValueError(f'{what} asks {asked}; the model has 0 to {n_layers - 1}; name others, as layers="[1,2]"')
    return list(range(first, last + 1))


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
