"""What long work says: a bar on a terminal alone, and once how long the rest takes."""

import sys
from unittest.mock import Mock

import pytest

from llava_hh.files import progress
from llava_hh.files.progress import Forecast, announce, in_words
from llava_hh.files.progress import progress as bar_over
from llava_hh.runs.blocks import Run


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")],
)
def test_durations(seconds, text):
    assert in_words(seconds) == text


@pytest.mark.parametrize(("terminal", "rank", "hidden"), [(1, 0, 0), (0, 0, 0), (1, 1, 0), (1, 0, 1)])
def test_a_bar_is_for_a_terminal_and_the_first_process(terminal, rank, hidden, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: bool(terminal))
    monkeypatch.setattr(progress, "processes", lambda: Mock(is_main=rank == 0))
    assert list(bar_over("work", "image", range(3), hidden=bool(hidden))) == [0, 1, 2]
    assert ("work: 100%" in capsys.readouterr().err) == (terminal == 1 and rank == hidden == 0)


def test_announcements_are_of_the_first_process_and_not_on_stdout(monkeypatch, capsys):
    announce("here")
    monkeypatch.setattr(progress, "processes", lambda: Mock(is_main=False))
    announce("elsewhere")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "here\n")


def test_the_rest_is_foretold_once_by_the_first_part(monkeypatch, capsys):
    times = iter([10.0, 14.0, 20.0, 21.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    forecast = Forecast("work", "image")
    forecast.begin()
    forecast.end(2, [2, 1])
    assert capsys.readouterr().err == "work: 3 images are left: about 6 s, at 0.5 images a second\n"
    forecast.begin()
    forecast.end(2, [1])
    assert capsys.readouterr().err == ""


def blocks_of(run: Run, samples: list[dict], stop_after: int = 9) -> list[int]:
    done = []
    for number, block in run.blocks(samples, 2, "work"):
        run.finish_block(number, block, [{"image_id": own["image_id"]} for own in block])
        done.append(number)
        if len(done) == stop_after:
            break
    return done


def test_blocks_say_how_long_the_rest_takes_and_finished_ones_say_nothing(tmp_path, capsys):
    samples = [{"image_id": number} for number in range(7)]
    assert blocks_of(Run(tmp_path), samples, stop_after=1) == [0]
    capsys.readouterr()
    assert blocks_of(Run(tmp_path), samples) == [1, 2, 3]
    said = capsys.readouterr().err
    assert said.startswith("work: 3 images are left: about ") and said.count("\n") == 1  # block 0 is there already
    assert blocks_of(Run(tmp_path), samples) == [] and capsys.readouterr().err == ""
    assert blocks_of(Run(tmp_path / "one"), samples[:2]) == [0] and capsys.readouterr().err == ""
