"""Progress where nobody sees bars: few lines, no control characters."""

import io
import logging
import warnings

import pytest
from rich.console import Console

from reverie.cli.console import BarProgress, PlainProgress, bars, progress, quieted
from reverie.core.errors import NoEffect
from reverie.core.events import Event


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _lines(events: list[Event], *, seconds_each: float = 1.0) -> list[str]:
    stream, clock = io.StringIO(), Clock()
    listener = PlainProgress(stream, clock=clock)
    for event in events:
        listener(event)
        clock.now += seconds_each
    return stream.getvalue().splitlines()


def test_a_stage_of_a_thousand_steps_has_eleven_lines() -> None:
    lines = _lines([Event("dreaming", step, 1000) for step in range(1001)])
    assert len(lines) == 11
    assert lines[0] == "dreaming: 0 of 1000"
    assert lines[-1].startswith("dreaming: 1000 of 1000")


def test_the_rate_and_the_time_left_are_of_this_stage() -> None:
    lines = _lines([Event("dreaming", step, 10, {"loss": 0.5}) for step in range(11)], seconds_each=2.0)
    # 4 steps in 8 s, so 0.5 per s, and 6 steps more take 12 s.
    assert lines[4] == "dreaming: 4 of 10, 0.5 per s, 12.0 s left, loss 0.5"


def test_a_resumed_stage_counts_only_what_it_did_itself() -> None:
    lines = _lines([Event("dreaming", 90, 100), Event("dreaming", 100, 100)])
    assert lines == ["dreaming: 90 of 100", "dreaming: 100 of 100, 10 per s"]


def test_every_stage_is_announced_also_when_it_comes_again() -> None:
    lines = _lines([Event("a", 0, 1), Event("b", 0, 1), Event("a", 0, 1), Event("a", 1, 1), Event("a", 0, 1)])
    assert [line.partition(":")[0] for line in lines] == ["a", "b", "a", "a", "a"]


def test_no_control_character_is_written() -> None:
    (line,) = _lines([Event("layer\x1b[31m\r\n", 0, 1, {"x\x07": 1.0})])
    assert line.isprintable()


def test_without_a_terminal_the_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as on_event:
        on_event(Event("teaching", 0, 4))
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "teaching: 0 of 4\n"


def test_other_libraries_are_quiet_and_our_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with quieted(debug=False):
        warnings.warn("of some library", DeprecationWarning, stacklevel=1)
        logging.getLogger("some.library").error("noise")
        warnings.warn("the edit changed nothing", NoEffect, stacklevel=1)
    assert capsys.readouterr().err == "warning: the edit changed nothing\n"
    with pytest.warns(UserWarning, match="heard again"):
        warnings.warn("heard again", UserWarning, stacklevel=1)


def test_debug_lets_other_libraries_speak() -> None:
    with pytest.warns(DeprecationWarning, match="some library"), quieted(debug=True):
        warnings.warn("of some library", DeprecationWarning, stacklevel=1)


def test_on_a_terminal_each_stage_has_one_bar() -> None:
    stream = io.StringIO()
    with bars(Console(file=stream, force_terminal=True, width=160)) as shown:
        listener = BarProgress(shown)
        for step in range(5):
            listener(Event("dreaming [bold]", step, 4, {"loss": 0.5}))
        listener(Event("teaching", 2, 2))
        listener(Event("dreaming [bold]", 1, 4))
    assert [task.description for task in shown.tasks] == ["dreaming [bold]", "teaching"]
    assert [task.completed for task in shown.tasks] == [1, 2]
    assert "dreaming [bold]" in stream.getvalue()
    assert "loss 0.5" in stream.getvalue()
