"""How far a folder of cases is: a bar on a terminal, a line now and then elsewhere; on standard error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

LINE_SECONDS = 60.0  # without a terminal: a line no more often than this


class Pace:
    """How long the rest will take, from cases that are done and windows of the one that is computed.

    A case may be swept several times (folds, stages, models). How often is known from the case
    before; in the first case every sweep counts as the last, so the time left grows with the next.

    Attributes:
        total: Cases.
        kept: Of these, how many were there already.
        done: Of these, how many are done, or failed.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.kept = 0
        self.done = 0
        self._clock = clock
        self._start = clock()
        self._sweeps = 0
        self._usual_sweeps = 1
        self._share = 0.0

    def begin_case(self) -> None:
        """The next case's windows follow."""
        self._usual_sweeps = max(self._usual_sweeps, self._sweeps)
        self._sweeps, self._share = 0, 0.0

    def window(self, done: int, total: int) -> None:
        """So many windows of a sweep over the case are done."""
        self._share = done / max(1, total)
        if done >= total:
            self._sweeps, self._share = self._sweeps + 1, 0.0

    def end_case(self) -> None:
        """A case is done or has failed."""
        self.done += 1

    @property
    def gone(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._start

    @property
    def left(self) -> float | None:
        """Seconds until the end, None as long as nothing is known."""
        within = min(1.0, (self._sweeps + self._share) / max(self._usual_sweeps, self._sweeps, 1))
        todo = self.total - self.kept
        # the last case may still be being written while the next one is computed
        made = min(float(todo), self.done + within)
        return self.gone * (todo - made) / made if made > 0 else None


class CaseProgress:
    """Shows cases, windows and the time left; its methods may be called by any thread.

    Args:
        total: Cases.
        show: Whether to show anything.
        console: Where; standard error if None.
        clock: Seconds.
    """

    def __init__(
        self,
        total: int,
        *,
        show: bool = True,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pace = Pace(total, clock)
        self._clock = clock
        self._console = console or Console(stderr=True)
        self._lines = show and total > 0 and not self._console.is_terminal
        self._last_line = clock()
        self._lock = threading.Lock()
        self._now = ""
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("{task.fields[left]}"),
            console=self._console, disable=not show or total == 0 or self._lines,
        )  # fmt: skip
        self._cases: TaskID = self._bars.add_task("predict", total=total, left="")
        self._windows: TaskID = self._bars.add_task("", total=1, left="", visible=False)

    def on_case(self, case: str, state: str) -> None:
        """What became of a case: `started`, `kept`, `done` or the reason of failure."""
        with self._lock:
            if state == "started":
                self.pace.begin_case()
                self._now = case
                self._bars.reset(self._windows, description=case, visible=False)
            elif state == "kept":
                self.pace.kept += 1
            else:
                self.pace.end_case()
            self._update()

    def on_window(self, what: str, done: int, total: int) -> None:
        """So many windows of a sweep over the current case are done."""
        with self._lock:
            self.pace.window(done, total)
            text = f"{self._now}: {what}"
            self._bars.update(
                self._windows, description=text, completed=done, total=total, visible=True
            )
            self._update(f" ({what}, window {done} of {total})")

    def _update(self, detail: str = "") -> None:
        pace = self.pace
        left = "" if pace.left is None else f"left: {timedelta(seconds=round(pace.left))}"
        finished = pace.done + pace.kept
        self._bars.update(self._cases, completed=finished, left=left)
        if self._lines and self._clock() - self._last_line >= LINE_SECONDS:
            self._last_line = self._clock()
            gone = timedelta(seconds=round(pace.gone))
            now = f", now {self._now}{detail}" if self._now else ""
            text = f"predict: {finished} of {pace.total} cases{now}, gone: {gone}"
            self._console.print(
                f"{text}, {left or 'left: unknown'}", soft_wrap=True, highlight=False, markup=False
            )

    def __enter__(self) -> CaseProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()
