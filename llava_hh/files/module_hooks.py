"""Forward hooks of modules that are there while a block is open."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


@contextmanager
def hooked(
    hooks: Iterable[tuple[nn.Module, Callable[..., Any]]], *, before: bool = False, with_kwargs: bool = False
) -> Iterator[None]:
    """Call each hook at the forwards of its module while the block is open; leaving removes them, also by an exception.

    Args:
        hooks: modules and what is called, as torch's `register_forward_hook` calls it.
        before: the forward, as `register_forward_pre_hook` does, in place of after it.
        with_kwargs: the hook takes the forward's keyword arguments too.
    """
    with ExitStack() as stack:
        for module, hook in hooks:
            register = module.register_forward_pre_hook if before else module.register_forward_hook
            stack.callback(register(hook, with_kwargs=with_kwargs).remove)
        yield
