"""The last case is written while the next one is computed: gzip takes as long as a small network."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from pathlib import Path

from renalplan.errors import WorkerError
from renalplan.files import TEMPORARY
from renalplan.vitals import Patience

PATIENCE_SECONDS = 600.0  # how long a file that is being written may stay as it is
TICK_SECONDS = 1.0


class BackgroundWriter:
    """Writes one case at a time in a thread (compression leaves the others alone).

    Attributes:
        out: Where the cases are written; its unfinished files show whether there is progress.
    """

    def __init__(self, out: Path, patience: float = PATIENCE_SECONDS) -> None:
        self.out = out
        self.patience = patience
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._last: Future[None] | None = None

    def put(self, write: Callable[[], None]) -> None:
        """Wait for the last case, then begin this one: there are never two results in memory.

        Raises:
            WorkerError: the last write makes no progress.
            Exception: what the last write raised.
        """
        self.finish()
        self._last = self._thread.submit(write)

    def finish(self) -> None:
        """Wait for the last case. Raises: see `put`."""
        patience = Patience(self.patience, time.monotonic)
        while self._last is not None:
            try:
                self._last.result(TICK_SECONDS)
            except NotYet:
                if self._last.done():  # the write itself raised a TimeoutError
                    self._last = None
                    raise
                if patience.spent(self._sizes()):
                    self._thread.shutdown(wait=False)
                    raise WorkerError(
                        f"writing into {self.out} has made no progress for {self.patience:g} s; "
                        "is the disk or the network there?"
                    ) from None
            except BaseException:
                self._last = None
                raise
            else:
                self._last = None

    def close(self) -> None:
        """Finish, and end the thread."""
        try:
            self.finish()
        finally:
            self._thread.shutdown(wait=self._last is None)

    def _sizes(self) -> list[tuple[str, int]]:
        found = []
        for path in sorted(self.out.glob(f"{TEMPORARY}*")):
            with suppress(FileNotFoundError):  # it has just become whole
                found.append((path.name, path.stat().st_size))
        return found


class WriteHere:
    """Writes a case at once."""

    def put(self, write: Callable[[], None]) -> None:
        """Write it."""
        write()

    def close(self) -> None:
        """Nothing is left to do."""
