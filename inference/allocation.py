"""How the C library hands memory out, where a limit is to be kept."""

from __future__ import annotations

import ctypes
import platform

M_MMAP_THRESHOLD = -3  # of <malloc.h>
LARGE = 1 << 20


def return_large_blocks() -> bool:
    """Let blocks of 1 MiB and more go back to the system as soon as they are free.

    glibc keeps freed blocks of up to 32 MiB for later. Slices of logits are about that large, and
    come and go in an order that leaves holes: a scan of 100 slices and 30 labels took 0.4 GiB more
    than it held. It costs a little time, so it is only done for those who set a limit.

    Returns:
        Whether this system can be told so.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE))
    except (OSError, AttributeError):
        return False
