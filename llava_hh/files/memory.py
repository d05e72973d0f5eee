"""Work in parts that memory has room for."""

import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

from llava_hh.files.progress import say

Item, Result = TypeVar("Item"), TypeVar("Result")
ADVICE = "use a smaller --batch-size or --max-rows, DTYPE=bfloat16, BITS=4 or DEVICE_MAP=auto"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of an accelerator or of the computer (torch has no class for that)."""
    if isinstance(error, MemoryError) or "OutOfMemoryError" in {kind.__name__ for kind in type(error).__mro__}:
        return True  # torch's class by its name: scripts that need no torch do without
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error) and "memory" in str(error)


def fit_in_memory(work: Callable[[int], Result], size: int, smallest: int = 1) -> tuple[Result, int]:
    """`work(size)`, started again with half the size when memory runs out, and the size that fitted.

    Raises:
        ValueError: out of memory at size `smallest`.
    """
    while True:
        try:
            return work(size), size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size <= smallest:
                raise ValueError(out_of_memory(error, f" with {size} at once")) from None
        size = max(smallest, size // 2)  # out of the handler, whose traceback holds the tensors
        _tell_once()
        if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
            torch.cuda.empty_cache()


def in_parts(work: Callable[[Sequence[Item]], Result], items: Sequence[Item]) -> tuple[list[Result], int | None]:
    """`work` on all items at once, or on halves, quarters, ... of them where memory is too small for that.

    Returns: the results of the parts, in order, and the number of items in a part; None if all were one part. Without
        items there is one empty part.
    Raises:
        ValueError: out of memory with one item.
    """

    def with_size(size: int) -> list[Result]:
        return [work(items[first : first + size]) for first in range(0, max(1, len(items)), size)]

    results, size = fit_in_memory(with_size, max(1, len(items)))
    return results, size if size < len(items) else None


def smallest_part(sizes: Sequence[int | None]) -> int | None:
    """The smallest of the sizes that `in_parts` returned, None where memory had room for everything."""
    return min((size for size in sizes if size is not None), default=None)


def out_of_memory(error: BaseException, where: str = "") -> str:
    """One line for the user about memory that ran out."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"out of memory{where} ({reason}); {ADVICE}"


@cache
def _tell_once() -> None:
    say("out of memory: what does not fit is done in smaller parts")
