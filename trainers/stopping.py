"""Ctrl-C and SIGTERM during a run with a budget: once is finish early, twice is stop at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether somebody asked to stop.

    Attributes:
        signal: The signal that asked; None as long as nobody did.
        can_finish: Whether there is something that finishing early would leave. As long as there
            is not, the first signal already stops at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.can_finish = False
        self._owner = os.getpid()
        self._seen_as_child = 0

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take the two signals while the block runs; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._take) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._owner:
            self._take_as_child(number)
            return
        if self.signal is not None or not self.can_finish:
            leave(number)
        self.signal = number
        log.warning(
            "%s: the fold is annealed, validated and finished first; once more stops at once.",
            signal.Signals(number).name,
        )

    def _take_as_child(self, number: int) -> None:
        """A data worker, forked: what goes to the whole group of processes is for its parent.

        It must go on making batches for the anneal. The parent ends its workers otherwise than by
        signals, and by SIGTERM those that hang: after one that was for all, so the second is obeyed.
        """
        if number == signal.SIGTERM:
            self._seen_as_child += 1
            if self._seen_as_child > 1:
                os._exit(128 + number)


def leave(number: int) -> NoReturn:
    """End this process as the signal wants it, checkpoints kept.

    Raises:
        KeyboardInterrupt: it was Ctrl-C.
        SystemExit: it was SIGTERM; the status is a shell's, 143.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    log.warning("terminated; the same command continues.")
    raise SystemExit(128 + number)
