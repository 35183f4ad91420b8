"""File permissions that hold for root too: the tests of a container run as root."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2  # capabilities by which root passes permissions over
VERSION = 0x20080522


@contextmanager
def bind() -> Iterator[None]:
    """Within, this thread may read and write only what permissions allow it, root or not.

    Raises:
        OSError: the system does not let go of the capabilities.
    """
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        yield
        return
    before = _capabilities()
    barred = 1 << DAC_OVERRIDE | 1 << DAC_READ_SEARCH
    _set_capabilities([before[0] & ~barred, *before[1:]])
    try:
        yield
    finally:
        _set_capabilities(before)


def _call(name: str, data: ctypes.Array[ctypes.c_uint32]) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(VERSION, 0)
    if getattr(library, name)(ctypes.byref(header), ctypes.byref(data)):
        raise OSError(ctypes.get_errno(), name)


def _capabilities() -> list[int]:
    """Effective, permitted, inheritable; then the same of the upper 32."""
    data = (ctypes.c_uint32 * 6)()
    _call("capget", data)
    return list(data)


def _set_capabilities(values: list[int]) -> None:
    _call("capset", (ctypes.c_uint32 * 6)(*values))
