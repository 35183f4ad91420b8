"""The time a fold has used, and whether it was asked to stop: all that a budget knows of the world."""

from __future__ import annotations

import time
from collections.abc import Callable

from renalplan.trainers.stopping import StopRequest


class Clock:
    """Seconds that a fold has used, runs of it that were killed included.

    Everything that is decided under a budget follows from its readings, `used` and `read`. Processes
    that train one network together must therefore all be given the same ones.

    Attributes:
        stop: Whether somebody asked to stop.
    """

    def __init__(
        self,
        before: float = 0.0,
        *,
        since: float | None = None,
        now: Callable[[], float] = time.monotonic,
        stop: StopRequest | None = None,
    ) -> None:
        """Begin to count.

        Args:
            before: What earlier runs used, seconds.
            since: When this run began, as `now` says it; this moment if None.
            now: Seconds of a clock that does not jump.
            stop: Who asks to stop; nobody if None.
        """
        self._now = now
        self._zero = (now() if since is None else since) - before
        self.stop = stop or StopRequest()

    def used(self) -> float:
        """Seconds."""
        return self._now() - self._zero

    def read(self) -> tuple[float, bool]:
        """Seconds used, and whether to stop."""
        return self.used(), self.stop.signal is not None
