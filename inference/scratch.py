"""Large arrays that are only needed for a while: in memory, or in a file that nobody else sees."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from renalplan.errors import PredictionError


class Scratch:
    """Gives out zeroed arrays: those larger than a limit lie in a file without a name.

    The operating system may write such a file to disk whenever memory is short, and the file is
    gone with the process, however that ends.

    Attributes:
        largest: Bytes of the largest array that is kept in memory.
        folder: Where files are made; the system's folder for temporary files if None.
    """

    def __init__(self, largest: int, folder: Path | None = None) -> None:
        self.largest = largest
        self.folder = folder

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of zeros.

        Raises:
            PredictionError: the disk has no room for it.
        """
        size = prod(shape) * np.dtype(dtype).itemsize
        if size <= self.largest:
            return np.zeros(shape, dtype)
        descriptor, name = tempfile.mkstemp(prefix=".renalplan-", dir=self.folder)
        try:
            Path(name).unlink()
            # really there, or writing into the mapping would kill the process
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.truncate(descriptor, size)
            mapping = mmap.mmap(descriptor, size)
        except OSError as problem:
            if problem.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise
            raise PredictionError(
                f"{self.folder or tempfile.gettempdir()} has no room for {size / 1e9:.1f} GB of "
                "intermediate results; free some, or allow more memory with --max_ram."
            ) from None
        finally:
            os.close(descriptor)
        return np.frombuffer(mapping, dtype).reshape(shape)


def release(array: NDArray[Any]) -> None:
    """Take an array of `Scratch`'s out of this process's memory, if it lies in a file."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
