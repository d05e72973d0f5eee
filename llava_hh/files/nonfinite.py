"""NaN and infinite values: noticed by one reduction of each step's logits, then traced to a layer by a second pass."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from llava_hh.files.module_hooks import hooked


class NotFinite(ArithmeticError):
    """A forward pass gave NaN or infinite numbers; says where."""


@contextmanager
def refusing_infinite(model: nn.Module) -> Iterator[None]:
    """Stop the forward passes of `model` at logits that are not all finite, at the last position of any row.

    The logits are checked as the model gives them, before suppressed ids are set to -inf.

    Raises:
        NotFinite: from the forward pass.
    """

    def check(_: nn.Module, args: tuple, output: Any) -> None:
        if not torch.stack(output.logits[:, -1].aminmax()).isfinite().all():
            raise NotFinite("what the vocabulary matrix makes of the last decoder layer (the logits)")

    with hooked([(model, check)]):
        yield


@contextmanager
def refusing_infinite_layers(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Stop the forward passes of rows without padding at the first decoder layer whose output is not finite.

    Raises:
        NotFinite: from the forward pass.
    """

    def check(hidden: Tensor, tensor: str) -> None:
        if not hidden.isfinite().all():
            raise NotFinite(tensor)

    def check_input(_: nn.Module, args: tuple, kwargs: dict) -> None:
        tensor = "the input of decoder layer 0 (embeddings of the tokens, features of the image)"
        check(args[0] if args else kwargs["hidden_states"], tensor)

    def check_output(layer: int, _: nn.Module, args: tuple, output: Any) -> None:
        check(output[0] if isinstance(output, tuple) else output, f"the output of decoder layer {layer}")

    layers = list(layers)
    after = ((module, partial(check_output, layer)) for layer, module in enumerate(layers))
    with hooked([(layers[0], check_input)], before=True, with_kwargs=True), hooked(after):
        yield


def refuse_infinite(
    model: nn.Module, layers: Iterable[nn.Module], samples: Sequence[tuple[object, Callable[[], object]]]
) -> NoReturn:
    """Say which sample gave NaN or infinite values, and in which layer.

    Args:
        samples: ids, each with a function that runs `model` over this sample alone.
    Raises:
        ValueError: always; one line.
    """
    layers = list(layers)
    what = "NaN or infinite: the weights are damaged, or too large for their type (try DTYPE=float32 or bfloat16)"
    for sample_id, run in samples:
        try:
            with refusing_infinite(model), refusing_infinite_layers(layers):
                run()
        except NotFinite as tensor:
            raise ValueError(f"sample {sample_id}: {tensor} is not finite; {what}") from None
    ids = ", ".join(str(sample_id) for sample_id, _ in samples)
    raise ValueError(f"sample {ids}: numbers that are not finite, and are when it runs alone again; {what}")
