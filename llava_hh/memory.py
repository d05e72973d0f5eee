"""Work in parts that memory has room for."""

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch
from tqdm import tqdm

Result = TypeVar("Result")
ADVICE = "use a smaller --batch-size or --max-rows, DTYPE=bfloat16, BITS=4 or DEVICE_MAP=auto"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that an accelerator's or the computer's memory ran out; of the latter torch has no class."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
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
                raise ValueError(f"out of memory with {size} at once ({_first_line(error)}); {ADVICE}") from None
        size = max(smallest, size // 2)  # out of the handler, whose traceback holds the tensors
        _tell_once()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@cache
def _tell_once() -> None:
    tqdm.write("out of memory: what does not fit is done in smaller parts, which its block keeps as sub_batch")
