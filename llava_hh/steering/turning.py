"""Turning what a module gives, at every position, while its length stays: what VISTA and VTI share."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from llava_hh.files.module_hooks import hooked

Pull = Callable[[Tensor], Tensor]  # from outputs (..., d), fp32, to what is added to their directions


@contextmanager
def turning(pulls: Iterable[tuple[nn.Module, Pull]]) -> Iterator[None]:
    """Turn the outputs x of modules while the block is open: x becomes |x| times the unit vector of unit(x) + pull.

    Lengths are of the last dimension, in fp32. Where a pull is all zeros, x stays as it is.

    Args:
        pulls: modules, each with the function that gives the pull of its outputs, of a shape that broadcasts to theirs.
    """

    def turn(pull: Pull, _: nn.Module, args: tuple, output: Tensor) -> Tensor:
        x = output.float()
        towards = pull(x)
        turned = x.norm(dim=-1, keepdim=True) * normalize(normalize(x, dim=-1) + towards, dim=-1)
        return torch.where(towards.any(-1, keepdim=True), turned.to(output.dtype), output)

    with hooked((module, partial(turn, pull)) for module, pull in pulls):
        yield
