"""The heads that the released code removes from Llama-3.2-Vision: those of its vision tower."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn
from transformers import PreTrainedModel

from llava_hh.attention.modules import attention_modules
from llava_hh.files.module_hooks import hooked
from llava_hh.heads import by_layer


def check_released(model: PreTrainedModel) -> None:
    """Check that the released indexing goes wrong on this model.

    Raises:
        ValueError: the model is not Llama-3.2-Vision.
    """
    if (kind := model.config.model_type) != "mllama":
        raise ValueError(f"removal_released is about the indexing of mllama's heads; this model is {kind}: omit it")


@contextmanager
def remove_as_released(model: PreTrainedModel, heads: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Zero the input of other modules than the listed heads': what the released code does on Llama-3.2-Vision.

    It numbers every module with `o_proj` in its name, in the order of `named_modules`. The vision tower comes first,
    so layer l of the list is layer l of the vision tower (32 local, then 8 global layers) and the text decoder is not
    touched. The slice of a head is that of the text decoder's width; where the tower is narrower, nothing happens.

    Args:
        heads: pairs that the text decoder has.
    Source: the released code for newer models (`newer_models`).
    """
    check_released(model)
    numbered = [module for name, module in model.named_modules() if "o_proj" in name]
    n_heads = model.config.get_text_config().num_attention_heads
    d_head = next(iter(attention_modules(model).values())).o_proj.in_features // n_heads

    def zero(chosen: list[int], _: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        outputs = args[0].clone()
        for head in chosen:
            outputs[..., head * d_head : (head + 1) * d_head] = 0
        return (outputs,)

    hooks = ((numbered[layer], partial(zero, chosen)) for layer, chosen in by_layer(heads).items())
    with hooked(hooks, before=True):
        yield
