"""How much memory a scan will take, and how to stay within what the user allows."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from math import ceil, prod
from pathlib import Path

from renalplan.errors import PredictionError, UsageError
from renalplan.geometry import Shape

FLOAT, HALF = 4, 2
READING = 8  # bytes a voxel and channel while a scan is read: float32, and the same turned
SLAB_COPIES = 6  # of a slab's probabilities while it is made and decided on
log = logging.getLogger(__name__)


def parse_size(text: str | int, option: str) -> int:
    """`4G`, `1500M` or bytes -> bytes; G and M are powers of 1024.

    Raises:
        UsageError: neither, or less than 1M: nobody means four bytes by `4`.
    """
    if isinstance(text, int):
        return text
    factors = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    cleaned = text.strip().upper().removesuffix("IB").removesuffix("B")
    factor = factors.get(cleaned[-1:], 1)
    try:
        size = float(cleaned.rstrip("KMGT")) * factor
    except ValueError:
        size = -1.0
    if not 1 << 20 <= size < 1 << 60:
        raise UsageError(f"{option} {text} is no size; write for example {option} 4G.")
    return int(size)


def resident() -> int:
    """Bytes of memory this process holds now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def growth(run: Callable[[], object]) -> int:
    """Bytes by which this process grows at most while something runs, watched every few ms."""
    before = most = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return max(most, resident()) - before


def preparing(box: Shape, shape: Shape, channels: int) -> int:
    """Bytes while a box of a scan is cut, normalised and resampled onto `shape`.

    Args:
        box: Voxels of the box along the plan's axes.
        shape: The prepared box.
        channels: Of the scan.
    """
    most, now = prod(box), list(box)
    # one axis after the other, the one that shrinks most first; see `resample_image`
    for axis in sorted(range(3), key=lambda a: shape[a] / box[a]):
        if now[axis] == shape[axis]:
            continue
        before = prod(now)
        now[axis] = shape[axis]
        most = max(most, before + prod(now))
    return FLOAT * channels * most


def sums(outputs: int, patch: Shape, shape: Shape) -> int:
    """Bytes of a sliding window's sums."""
    y, x = (max(n, p) for n, p in zip(shape[1:], patch[1:], strict=True))
    return FLOAT * (outputs + 1) * patch[0] * y * x


class Room:
    """The memory that a process may take.

    Attributes:
        limit: Bytes in all.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def check_reading(self, what: str, voxels: int, channels: int) -> None:
        """Before a scan is read.

        Raises:
            PredictionError: reading it alone takes more than there is.
        """
        self._require(f"reading {what} alone", resident() + READING * voxels * channels)

    def share(self, what: str, certain: int, arrays: list[int], later: int = 0) -> int:
        """The largest array that may be kept in memory; larger ones go into files.

        Args:
            what: Names the work, for the log and the error.
            certain: Bytes that have to be in memory beside what the process holds now.
            arrays: Bytes of the arrays that may lie in a file.
            later: Bytes that have to be in memory when the first of them is gone.

        Returns:
            For `Scratch`.

        Raises:
            PredictionError: not even without those arrays it fits.
        """
        before = resident()

        def needed(largest: int) -> int:
            kept = [size for size in arrays if size <= largest]
            gone = arrays[0] if arrays and arrays[0] <= largest else 0
            return before + sum(kept) + max(certain, later - gone)

        largest = max((n for n in arrays if needed(n) <= self.limit), default=0)
        self._require(what, needed(largest))
        in_files = sum(size for size in arrays if size > largest)
        log.info(
            "%s: about %s of memory (%s allowed)%s",
            what,
            readable(needed(largest)),
            readable(self.limit),
            f", {readable(in_files)} in a file" if in_files else "",
        )
        return largest

    def _require(self, what: str, size: int) -> None:
        if size > self.limit:
            raise PredictionError(
                f"{what} needs about {readable(size)} of memory, --max_ram allows "
                f"{readable(self.limit)}; allow more, or predict on a machine with more memory."
            )


def readable(size: int) -> str:
    """Bytes for people."""
    return f"{size / (1 << 30):.2f} GiB" if size >= 1 << 27 else f"{ceil(size / (1 << 20))} MiB"
