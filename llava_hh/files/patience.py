"""An end for work that may have none, such as a text template of a checkpoint that loops."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


@contextmanager
def within(seconds: float, problem: str) -> Iterator[None]:
    """End Python code that takes longer than so many seconds, but no single long call into C.

    Only in the main thread, where signals arrive.

    Raises:
        ValueError: it was not done; says `problem`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> NoReturn:
        raise ValueError(f"{problem}: not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
