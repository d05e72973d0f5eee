"""Work in parts that memory has room for."""

import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

from tqdm import tqdm

Item, Result = TypeVar("Item"), TypeVar("Result")
ADVICE = "use a smaller --batch-size or --max-rows, DTYPE=bfloat16, BITS=4 or DEVICE_MAP=auto"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that an accelerator's or the computer's memory ran out; of the latter torch has no class."""
    if isinstance(error, MemoryError) or any(each.__name__ == "OutOfMemoryError" for each in type(error).__mro__):
        return True  # torch's class by its name: scripts that need no torch do without
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error) and "memory" in str(error)


def fit_in_memory(work: Callable[[int], Result], size: int, smallest: int = 1) -> tuple[Result, int]:
    """`work(size)`, begun anew with half the size each time that memory runs out; and the size that fitted.

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
    """`work` on all items at once, or on halves, quarters, ... of them where memory has no room for that.

    Returns: what it gave for each part, in order (one empty part if there are no items), and how many items a part
        had, None if it was all.
    Raises:
        ValueError: out of memory with one item.
    """

    def with_size(size: int) -> list[Result]:
        return [work(items[first : first + size]) for first in range(0, max(1, len(items)), size)]

    results, size = fit_in_memory(with_size, max(1, len(items)))
    return results, size if size < len(items) else None


def smallest_part(sizes: Sequence[int | None]) -> int | None:
    """The smallest of what `in_parts` returned as sizes, None where memory had room for everything."""
    return min((size for size in sizes if size is not None), default=None)


def out_of_memory(error: BaseException, where: str = "") -> str:
    """One line for the user about memory that ran out."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"out of memory{where} ({reason}); {ADVICE}"


@cache
def _tell_once() -> None:
    tqdm.write("out of memory: what does not fit is done in smaller parts")
