"""Whether another process still does something, how much memory it holds, and how not to outlive it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Vitals:
    """What the system says of a living process.

    Attributes:
        work: A number that grows as it computes or reads.
        resident: Bytes of memory that it holds.
    """

    work: int
    resident: int


def vitals(pid: int) -> Vitals | None:
    """A process's vital signs; None if it is gone or the system does not tell (no /proc)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        read = Path(f"/proc/{pid}/io").read_text().split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    ticks = int(stat[11]) + int(stat[12])  # user and system time
    return Vitals(ticks + int(read[1]), pages * os.sysconf("SC_PAGE_SIZE"))


class Patience:
    """Ends when nothing has changed for so many seconds; a change begins it anew."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self._clock = clock
        self._since = clock()
        self._seen: object = None

    def spent(self, sign: object) -> bool:
        """Whether `sign` has been the same for too long."""
        if sign != self._seen:
            self._seen, self._since = sign, self._clock()
        return self._clock() - self._since > self.seconds


def cause_of_death(status: int | None, resident: int) -> str:
    """What an exit status says, with the memory last seen.

    Args:
        status: As `subprocess` gives it: negative for a signal.
        resident: Bytes, 0 if it was never seen.
    """
    memory = f" while it held {resident / 2**30:.2f} GiB of memory" if resident else ""
    if status is None:
        return f"went silent{memory}"
    if status >= 0:
        return f"ended with status {status}{memory}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    why = "; most often that means that memory ran out" if -status == signal.SIGKILL else ""
    return f"was killed by {name}{memory}{why}"


def die_with(parent: int) -> None:
    """Have the system end this process with its parent, where it can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before we asked
        os._exit(1)


def follow(parent: int) -> None:
    """End this process soon after its parent, on any system."""
    die_with(parent)
    if sys.platform != "linux":
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
