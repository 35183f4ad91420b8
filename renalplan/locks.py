"""One run at a time writes into a folder. The lock is the system's, so it goes with who holds it, however.

A lock is a hidden file beside what it guards; what counts is not that it is there but that it is
locked (`flock`), which no dead process does. It is removed when it is let go. Where machines share a
file system, those of today pass such locks on (NFS 4, Lustre with `flock`, GPFS); on others a line
says that there are none.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from renalplan.errors import UsageError
from renalplan.files import remove_leftovers

fcntl: Any
try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

PATIENCE_SECONDS = 3.0  # what a killed run's processes may take to follow it
TICK_SECONDS = 0.1
BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
WORDS = 200  # bytes that are read of what a lock's holder says of itself
log = logging.getLogger(__name__)
_held: set[int] = set()  # descriptors


def _let_go() -> None:
    """A forked data worker must not keep what its killed parent held."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class _BusyError(Exception):
    """Somebody else holds it; the text says who."""


@contextmanager
def hold(
    folder: Path,
    name: str,
    what: str,
    advice: str = "",
    *,
    shared: bool = False,
    patience: float | None = None,
) -> Iterator[None]:
    """Hold a folder's lock of this name while the block runs.

    Args:
        folder: Made if it is not there, and taken away again if nothing has come into it.
        name: Of the lock: what is guarded in the folder.
        what: The beginning of the sentence for whoever comes second: `fold 1 of … is being trained`.
        advice: What else to do than to wait, with a comma before it.
        shared: Together with others that hold it so.
        patience: Seconds to wait for it; those of the module if None.

    Raises:
        UsageError: another run holds it.
        OSError: the folder cannot be written; it is named, not the lock.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    path = folder / f".{name}.lock"
    try:
        try:
            descriptor = _take(path, shared, PATIENCE_SECONDS if patience is None else patience)
        except _BusyError as other:
            raise UsageError(
                f"{what} by another run{other}; wait until it has ended{advice}."
            ) from None
        try:
            yield
        finally:
            if descriptor is not None:
                _release(path, descriptor)
    finally:
        for parent in made:
            with suppress(OSError):  # something has come into it
                parent.rmdir()


@contextmanager
def hold_files(*paths: Path, advice: str = ", or choose another name") -> Iterator[None]:
    """Write files of one folder alone while the block runs; what a killed run left of them goes.

    Args:
        paths: The first one gives the lock its name.
        advice: As in `hold`.

    Raises:
        UsageError: another run writes them.
        OSError: the folder cannot be written.
    """
    first = paths[0]
    with hold(first.parent, first.name, f"{first} is being written", advice):
        remove_leftovers(first.parent, [path.name for path in paths])
        yield


def _take(path: Path, shared: bool, patience: float) -> int | None:
    """The descriptor of the locked file; None where there are no locks."""
    if fcntl is None:
        return None
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    limit = time.monotonic() + patience
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # who made it may have taken it away again
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            if time.monotonic() > limit:
                raise
            continue
        except OSError as problem:
            problem.filename = str(path.parent)
            raise
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError as problem:
            words = os.pread(descriptor, WORDS, 0)
            os.close(descriptor)
            if problem.errno not in BUSY:
                _say_no_locks(path, problem)
                return None
            if time.monotonic() > limit:
                raise _BusyError(_who(words)) from None
            time.sleep(TICK_SECONDS)
            continue
        if _is_that(descriptor, path):
            break
        os.close(descriptor)  # who held it has just removed it
    _held.add(descriptor)
    if not shared:
        with suppress(OSError):  # it is only for the sentence
            os.fchmod(descriptor, 0o666)  # another user must be able to lock what was left
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return descriptor


def _release(path: Path, descriptor: int) -> None:
    if descriptor not in _held:  # this process is a fork of the holder
        return
    _held.discard(descriptor)
    try:
        with suppress(OSError):  # others share it: the last of them removes it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_that(descriptor, path):
                path.unlink()
    finally:
        os.close(descriptor)


def _is_that(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _say_no_locks(path: Path, problem: OSError) -> None:
    with suppress(OSError):
        path.unlink()
    log.warning(
        "%s lies where files cannot be locked (%s): see to it that no two runs write into it.",
        path.parent,
        problem.strerror,
    )


def _who(words: bytes) -> str:
    """What a holder says of itself, as a remark."""
    text = "".join(c for c in words.decode(errors="replace") if c.isprintable())
    return f" ({text})" if text else ""
