"""Forward hooks on modules while a block is open."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


@contextmanager
def hooked(
    hooks: Iterable[tuple[nn.Module, Callable[..., Any]]], *, before: bool = False, with_kwargs: bool = False
) -> Iterator[None]:
    """Call hooks at the forwards of their modules while the block is open; leaving removes them, also by an exception.

    Args:
        hooks: modules, each with a function that torch's `register_forward_hook` takes.
        before: call before the forward (`register_forward_pre_hook`) instead of after it.
        with_kwargs: the hook takes the forward's keyword arguments too.
    """
    with ExitStack() as stack:
        for module, hook in hooks:
            register = module.register_forward_pre_hook if before else module.register_forward_hook
            stack.callback(register(hook, with_kwargs=with_kwargs).remove)
        yield
