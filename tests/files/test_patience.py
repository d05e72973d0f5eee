"""Work that is given so long: it ends, and a timer of the caller's comes all the same."""

import signal
import time

import pytest

from llava_hh.files.patience import within


def test_work_that_takes_too_long_ends():
    begun = time.monotonic()
    with pytest.raises(ValueError, match="the template: not done after 0.1 s"), within(0.1, "the template"):
        while True:
            pass
    assert time.monotonic() - begun < 5


def test_a_timer_of_the_caller_is_kept():
    came, begun = [], time.monotonic()
    before = signal.signal(signal.SIGALRM, lambda *_: came.append(time.monotonic() - begun))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with within(20, "nothing"):
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 19
        while not came and time.monotonic() - begun < 5:
            time.sleep(0.01)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert came and came[0] > 0.2
