"""A dask cluster as an executor: refused before any work if it cannot do it, watched while it does."""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from renalplan.errors import UsageError, WorkerError
from renalplan.files import TEMPORARY
from renalplan.on_worker import View, call, code_version, look
from renalplan.parallel import CaseExecutor
from renalplan.vitals import Patience

ADDRESS = re.compile(
    r"((tcp|tls|ucx|ws|wss|inproc)://)?([^\s:/]+|\[[0-9a-fA-F:]+\])(:\d+|/\d+/\d+)"
)  # tcp://node1:8786
CONNECT_SECONDS = 30
WORKERS_SECONDS = 30.0  # how long a cluster may have no workers before anything is sent
NO_WORKERS_SECONDS = 300.0  # how long it may have none later
CASE_SECONDS = 12 * 3600.0  # how long no case at all may be finished: a worker hangs
ANSWER_SECONDS = 20.0  # how long the scheduler may take to say how many workers there are
P = ParamSpec("P")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Shared:
    """Files that this machine and the workers must see under the same names.

    Attributes:
        reads: Some of the files that are read.
        writes: The folder that workers write into; it need not be there yet.
    """

    reads: tuple[Path, ...] = ()
    writes: Path | None = None


class Cluster(CaseExecutor):
    """The workers of a dask scheduler, each of which computes one call at a time.

    No more calls are sent than there are workers: one that waits behind a call that kills its worker
    would be taken for a killer too, and the worker that is free first should have the next.
    """

    def __init__(self, client: Any, address: str, *, case_seconds: float = CASE_SECONDS) -> None:
        self.address = address
        self._client = client
        self._executor = client.get_executor(pure=False)  # pure ones are not computed again
        self._code = code_version()
        self._sent = 0
        self._none_there = Patience(NO_WORKERS_SECONDS, time.monotonic)
        self._none_done = Patience(case_seconds, time.monotonic)

    def submit(
        self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Result]:
        """See `Executor`; a call whose worker dies is sent to another by dask, three times at most."""
        self._sent += 1
        future: Future[Result] = self._executor.submit(call, self._code, fn, *args, **kwargs)
        return future

    def workers(self) -> int:
        """How many there are; 0 as well if the scheduler is gone."""
        if self._client.status != "running":
            return 0
        with suppress(OSError, TimeoutError):
            return len(self._client.nthreads(callback_timeout=ANSWER_SECONDS))
        return 0

    def room(self) -> int:
        """One for each worker."""
        return max(1, self.workers())

    def check(self, waiting: int) -> None:
        """See `CaseExecutor`."""
        sign = time.monotonic() if self.workers() else "nobody"
        if self._none_there.spent(sign):
            raise WorkerError(
                f"the dask cluster at {self.address} has had no workers for "
                f"{self._none_there.seconds:g} s; start some and run the same command again: "
                "it continues."
            )
        if self._none_done.spent((self._sent, waiting)):
            raise WorkerError(
                f"no case was finished by the dask cluster at {self.address} in "
                f"{self._none_done.seconds / 3600:g} hours; look at its workers and run the same "
                "command again."
            )

    def lost(self, problem: BaseException) -> WorkerError | None:
        """See `CaseExecutor`."""
        from distributed import KilledWorker

        if isinstance(problem, KilledWorker):
            times = problem.allowed_failures + 1
            return WorkerError(
                f"each of the {times} dask workers that computed it died, the last at "
                f"{problem.last_worker.address}; most often that means that memory ran out."
            )
        if isinstance(problem, CancelledError):
            raise WorkerError(
                f"the dask scheduler at {self.address} is gone; run the same command again when it is "
                "back: it continues."
            ) from None
        return None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Leave the cluster; what it still computes for us is given up."""
        self._executor.shutdown(wait=False)
        self._client.close()


@contextmanager
def connect(
    address: str, shared: Shared | None = None, *, case_seconds: float = CASE_SECONDS
) -> Iterator[Cluster]:
    """The cluster of the scheduler at `address`, e.g. `tcp://node1:8786`, if it can do the work.

    Args:
        address: As `dask scheduler` prints it.
        shared: What its workers must see.
        case_seconds: How long no case at all may be finished.

    Raises:
        UsageError: `distributed` is not installed, nobody answers, there are no workers, or one of
            them has another version of renalplan or does not see the same files.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(
            "--dask needs the package distributed: pip install 'renalplan[dask]'."
        ) from None
    if not ADDRESS.fullmatch(address):  # its client would hang on to such a one for a minute
        raise UsageError(
            f"--dask {address}: that is no address of a scheduler; give it as `dask scheduler` prints "
            "it, e.g. tcp://node1:8786."
        )
    # what it has to say of a scheduler that dies are tracebacks; we say it in a sentence
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as problem:
        raise UsageError(
            f"--dask {address}: no scheduler answers ({_said(problem)}); "
            "give its address as `dask scheduler` prints it."
        ) from None
    try:
        _require_workers(client, address)
        _require_sight(client, address, shared or Shared())
        with Cluster(client, address, case_seconds=case_seconds) as cluster:
            yield cluster
    finally:
        client.close()


def _said(problem: BaseException) -> str:
    return " ".join(str(problem).split()).rstrip(".") or type(problem).__name__


def _require_workers(client: Any, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=WORKERS_SECONDS)
    except TimeoutError:
        raise UsageError(
            f"--dask {address}: no worker has come in {WORKERS_SECONDS:g} s; start some with "
            f"`dask worker {address}` and run the same command again."
        ) from None


def _require_sight(client: Any, address: str, shared: Shared) -> None:
    """Have every worker look around. Raises UsageError with the first one that is not as it must be."""
    files = {path.absolute(): path.stat().st_size for path in shared.reads}
    with _probe(shared.writes) as probe:
        folder = None if probe is None else probe.parent
        if probe is not None:
            files[probe] = probe.stat().st_size
        views = client.run(look, files, folder, on_error="return")
    for worker in sorted(views):
        if problem := _misfit(views[worker]):
            raise UsageError(f"--dask {address}: the worker {worker} {problem}")


@contextmanager
def _probe(folder: Path | None) -> Iterator[Path | None]:
    """A file of a name that nobody else has, in a folder or, if that is still to be made, above it."""
    if folder is None:
        yield None
        return
    there = folder.absolute()
    while not there.is_dir():
        there = there.parent
    probe = there / f"{TEMPORARY}{os.getpid()}-dask-{secrets.token_hex(8)}"
    try:
        probe.write_text("do you see this?", encoding="utf-8")
        yield probe
    finally:
        probe.unlink(missing_ok=True)


def _misfit(view: object) -> str | None:
    """What is wrong with a worker, by its answer."""
    code = code_version()
    if not isinstance(view, View):
        reason = _said(view) if isinstance(view, BaseException) else repr(view)
        return f"cannot run renalplan {code} ({reason}); install the same there."
    if view.code != code:
        return (
            f"on {view.host} has renalplan {view.code}, this machine has {code}; "
            "install the same on both."
        )
    if view.unseen is not None:
        ours = view.unseen.name.startswith(TEMPORARY)
        return (
            f"on {view.host} does not see {view.unseen.parent if ours else view.unseen} as this "
            "machine does; "
            "all need the same file system under the same names."
        )
    if view.closed is not None:
        return f"on {view.host} may not write into {view.closed}; change its permissions."
    return None
