"""An end for work that may have none, such as a text template of a checkpoint that loops."""

import signal
import threading
import time
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

    before, begun = signal.signal(signal.SIGALRM, stop), time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)  # what was left of a timer of the caller's
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)  # None: not set from Python
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - begun), 1e-6), interval)
