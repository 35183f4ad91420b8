"""What is run on a cluster's workers for every kind of work: calls, one at a time, and a look around."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from renalplan.allocation import give_back, keep_freed_blocks
from renalplan.errors import WorkerError
from renalplan.parallel import limit_threads

PACKAGES = ("", ".planners", ".trainers", ".inference", ".evaluation")
Result = TypeVar("Result")


@lru_cache(maxsize=1)
def code_version() -> str:
    """Version and fingerprint of the installed sources, such as `0.1.0 (3f2a…)`.

    A checkout that has been worked on has the number of the release before; the sources tell.
    """
    files: dict[str, Path] = {}
    for package in PACKAGES:
        spec = find_spec(f"renalplan{package}")
        for folder in (spec.submodule_search_locations or []) if spec else []:
            root = f"renalplan{package}".replace(".", "/")
            for path in Path(folder).rglob("*.py"):  # an installed package holds the others
                files[f"{root}/{path.relative_to(folder).as_posix()}"] = path
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name].read_bytes() + b"\0")
    return f"{version('renalplan')} ({digest.hexdigest()})"


@dataclass(frozen=True)
class View:
    """What a worker sees.

    Attributes:
        code: Its `code_version`.
        host: Its machine.
        unseen: A file that it does not see as the asking machine does.
        closed: The folder to write into, if it may not.
    """

    code: str
    host: str
    unseen: Path | None
    closed: Path | None


def look(files: dict[Path, int], folder: Path | None) -> View:
    """Look whether files (path -> bytes) are there, and whether a folder can be written to."""
    unseen = next((path for path, size in files.items() if not _is_there(path, size)), None)
    closed = folder if folder is not None and not os.access(folder, os.W_OK | os.X_OK) else None
    return View(code_version(), socket.gethostname(), unseen, closed)


def _is_there(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


_one_at_a_time = threading.Lock()  # a worker may have several threads, its memory is for one case


def call(code: str, function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function for the machine that runs `code`; it may use as many cores as the worker has threads.

    Raises:
        WorkerError: this worker, which came later than the look around, has other code.
    """
    if code != code_version():
        raise WorkerError(
            f"the worker on {socket.gethostname()} has renalplan {code_version()}, this machine has "
            f"{code}; install the same on all."
        )
    with _one_at_a_time:
        _settle(worker_threads())
        try:
            return function(*arguments)
        finally:
            give_back()  # dask watches a worker's memory, and the next case may need it in one piece


@lru_cache(maxsize=1)
def _settle(threads: int) -> None:
    """Once: what dask has set for its workers is not what computing needs."""
    limit_threads(threads)
    keep_freed_blocks()


def worker_threads() -> int:
    """How many threads this worker has been given (`dask worker --nthreads`)."""
    from distributed import get_worker

    return int(get_worker().state.nthreads)


def given_up() -> Callable[[], bool]:
    """A function that says whether the call that is being computed here is still waited for.

    Dask forgets such a call, but leaves it to run to its end.
    """
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def is_given_up() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    return is_given_up
