"""Cases, windows and the time left: a bar on a terminal, lines with a minute between them elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from renalplan.case_progress import CaseProgress, Pace


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_follows_cases_and_windows() -> None:
    clock = Clock()
    pace = Pace(5, clock)
    assert pace.left is None
    pace.kept = 1
    pace.begin_case()
    clock.now = 10
    pace.window(1, 4)  # a quarter of the first of four cases: 10 s for 1/4
    assert pace.left == pytest.approx(150)
    pace.window(4, 4)
    clock.now = 20
    pace.window(4, 4)  # a second sweep, of another fold
    pace.end_case()
    pace.begin_case()
    assert pace.left == pytest.approx(60)
    clock.now = 25
    pace.window(2, 4)  # a quarter again, since cases are swept twice
    assert pace.left == pytest.approx(25 * 2.75 / 1.25)
    for _ in range(3):
        pace.end_case()
    assert pace.left == 0


def test_the_last_case_may_be_written_late() -> None:
    clock = Clock()
    pace = Pace(1, clock)
    pace.begin_case()
    clock.now = 8
    pace.window(1, 1)
    assert pace.left == 0
    pace.end_case()
    assert pace.left == 0


def _events(progress: CaseProgress, clock: Clock) -> None:
    with progress:
        progress.on_case("a", "kept")
        progress.on_case("b", "started")
        for window in range(1, 5):
            clock.now += 25
            progress.on_window("whole fold 0", window, 4)
        progress.on_case("c", "started")
        progress.on_case("b", "done")  # it was being written
        clock.now += 50
        progress.on_case("c", "no [image]")


def test_without_a_terminal_a_line_comes_once_a_minute() -> None:
    clock, out = Clock(), io.StringIO()
    _events(CaseProgress(3, console=Console(file=out, width=40), clock=clock), clock)
    assert out.getvalue().splitlines() == [
        "predict: 1 of 3 cases, now b (whole fold 0, window 3 of 4), gone: 0:01:15, left: 0:02:05",
        "predict: 3 of 3 cases, now c, gone: 0:02:30, left: 0:00:00",
    ]


def test_on_a_terminal_there_are_two_bars() -> None:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    _events(CaseProgress(3, console=console, clock=clock), clock)
    shown = out.getvalue()
    assert "3/3" in shown
    assert "left: 0:00:00" in shown
    assert "gone:" not in shown


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_is_shown_where_nothing_is_wanted(terminal: bool) -> None:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=terminal)
    _events(CaseProgress(3, show=False, console=console, clock=clock), clock)
    assert out.getvalue() == ""
