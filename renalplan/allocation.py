"""How the C library hands memory out: glibc's thresholds, which a process sets for itself."""

from __future__ import annotations

import ctypes
import platform
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
LARGE = 1 << 20
KEPT_BLOCK, KEPT_TOP = (
    1 << 25,
    1 << 27,
)  # what glibc settles for by itself, unless it was told otherwise


def return_large_blocks() -> bool:
    """Let blocks of 1 MiB and more go back to the system as soon as they are free.

    glibc keeps freed blocks of up to 32 MiB for later. Slices of logits are about that large, and
    come and go in an order that leaves holes: a scan of 100 slices and 30 labels took 0.4 GiB more
    than it held. It costs a little time, so it is only done for those who set a limit.

    Returns:
        Whether this system can be told so.
    """
    return _set({M_MMAP_THRESHOLD: LARGE})


def keep_freed_blocks() -> bool:
    """Let blocks of up to 32 MiB be used again, in a process that was started with other thresholds.

    Dask starts its workers so that everything goes back to the system at once (their memory is watched):
    each array is then new memory, page by page, which took a third of a prediction's time.

    Returns:
        Whether this system can be told so.
    """
    return _set({M_TRIM_THRESHOLD: KEPT_TOP, M_MMAP_THRESHOLD: KEPT_BLOCK})


def give_back() -> None:
    """Return what is freed to the system now, as far as it can be told so."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _set(thresholds: dict[int, int]) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        library = ctypes.CDLL(None)
        return all(library.mallopt(name, size) for name, size in thresholds.items())
    except (OSError, AttributeError):
        return False
