"""reproduce.sh under clocks that jump: its record and its estimates stay sensible."""

import pytest

from tests.support.reproducing import reproduce


def test_steps_are_timed_by_the_clock(tmp_path):
    """Two calls a step, 60 seconds apart."""
    said, record = reproduce(tmp_path, "n * 60")
    assert record[:4] == ["attribute begun", "attribute 60", "decoding begun", "decoding 60"]
    assert said[0].endswith("attribute (no estimate before the first step is done)")
    # attribute took 1 minute for mini's 14; decoding is 28 of mini's minutes, and all that are left are 273
    assert said[1].endswith("decoding (about 2 minutes; about 21 until the end)")


@pytest.mark.parametrize("clock", ["100000 - n * 60", "n % 2 * 1000"])
def test_a_clock_set_back_gives_no_time(clock, tmp_path):
    said, record = reproduce(tmp_path, clock)
    assert record[1::2] == [line.replace("begun", "finished") for line in record[::2]]
    assert all(line.endswith("(no estimate before the first step is done)") for line in said)


@pytest.mark.parametrize("damage", ["attribute -5000", "attribute 1e9 x", "attribute finished"])
def test_a_record_without_a_time_is_no_time(damage, tmp_path):
    """Negative seconds, as older versions left them after a clock was set back, count as finished alone."""
    said, record = reproduce(tmp_path, "n * 60", f"{damage}\n")
    assert said[0].endswith("attribute (finished before)")
    assert said[1].endswith("decoding (no estimate before the first step is done)")
    assert record[:3] == [damage, "attribute begun", "attribute finished"]
