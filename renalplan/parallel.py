"""A map over cases: in this process, in several, or on a cluster; results as they come, errors with their case.

Every loop over cases takes a `CaseExecutor`, which is a `concurrent.futures.Executor` with a little more:
`Here` and `Processes` are below, `renalplan.cluster.Cluster` is the third, and `renalplan.executors`
opens the one that a command line asks for.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from types import FrameType, TracebackType
from typing import ParamSpec, TypeVar

from renalplan.ending import end_quickly
from renalplan.errors import RenalplanError, WorkerError
from renalplan.interruption import keeping_ctrl_c, silent_about
from renalplan.vitals import follow

Item = TypeVar("Item")
Result = TypeVar("Result")
P = ParamSpec("P")
_asked: list[int] = []  # with which status this process is to end
_calls: list[object] = []  # what it is just doing
STOP_SECONDS = 1.0  # how long processes may take to end after an interruption
TICK_SECONDS = 2.0  # how often an executor is asked whether waiting still makes sense


def usable_cores() -> int:
    """Cores this process may run on (what a container or a scheduler allows)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def data_loaders(cores: int) -> int:
    """Processes that prepare batches where there are so many cores: all but one, twelve at most."""
    return max(0, min(12, cores - 1))


def limit_threads(threads: int) -> None:
    """Let this process compute with so many threads, whatever the machine has.

    PyTorch is not imported for it: where it comes later, it looks at the environment.
    """
    from threadpoolctl import threadpool_limits

    os.environ["OMP_NUM_THREADS"] = str(threads)
    threadpool_limits(threads)  # of the libraries that are here already
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def begin_worker(threads: int, parent: int) -> None:
    """What a process of `Processes` does first: it ends with its parent, and by SIGTERM in good order.

    Args:
        threads: See `limit_threads`.
        parent: Who started it; Ctrl-C is for that process.
    """
    follow(parent)
    end_quickly()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _raise_exit)
    sys.unraisablehook = silent_about(SystemExit, sys.unraisablehook)
    limit_threads(threads)


def _raise_exit(number: int, _: FrameType | None) -> None:
    if not _calls:  # it is starting, or waits: there is nothing to take away
        os._exit(128 + number)
    _asked.append(128 + number)
    raise SystemExit(_asked[-1])


def call_in_worker(function: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Result:
    """Call a function in a process of `Processes`; what ends the process ends it at once.

    The pool would take SystemExit for the call's result and begin the next one; and what a library
    catches is asked for all the same.
    """
    _calls.append(function)
    try:
        return function(*args, **kwargs)
    finally:
        _calls.pop()
        if _asked:
            os._exit(_asked[-1])


def compute_threads() -> int:
    """Threads for computing outside torch: OMP_NUM_THREADS (see `limit_threads`), or all cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(usable_cores(), int(asked)) if asked.isdigit() and int(asked) else usable_cores()


class CaseExecutor(Executor, ABC):
    """Computes calls, each of which is one case's, wherever it is."""

    @abstractmethod
    def room(self) -> int:
        """How many calls it wants to have at a time; at least one."""

    def suited(self, items: int) -> CaseExecutor:
        """Who had better compute so many; mostly itself."""
        return self

    def check(self, waiting: int) -> None:
        """Called now and then while none of the `waiting` calls ends.

        Raises:
            WorkerError: none will.
        """
        return None

    def lost(self, problem: BaseException) -> WorkerError | None:
        """What a call's exception means if it is not the call's own but that of who computed it.

        Raises:
            WorkerError: the other calls are lost as well.
        """
        return None


class Here(CaseExecutor):
    """This process, one call after the other; a call has ended when `submit` returns."""

    def submit(
        self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Result]:
        """Compute now."""
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as problem:
            future.set_exception(problem)
        return future

    def room(self) -> int:
        """One: what is submitted is computed, and its result should be taken before the next."""
        return 1


class Processes(CaseExecutor):
    """Processes of this machine, started afresh when there is something for them to do."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ProcessPoolExecutor(
            count,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=begin_worker,  # share the cores instead of having each take them all
            initargs=(max(1, usable_cores() // count), os.getpid()),
        )

    def submit(
        self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Result]:
        """See `Executor`; the function must be importable by its name."""
        try:
            with keeping_ctrl_c():  # it may start a process
                return self._pool.submit(call_in_worker, fn, *args, **kwargs)
        except BrokenProcessPool:
            raise self._broken() from None

    def room(self) -> int:
        """Another one for each process, which need not wait for it."""
        return 2 * self.count

    def suited(self, items: int) -> CaseExecutor:
        """A single case is not worth a process."""
        return self if items > 1 else Here()

    def lost(self, problem: BaseException) -> WorkerError | None:
        """See `CaseExecutor`: a process that dies takes all others with it."""
        if isinstance(problem, BrokenProcessPool):
            raise self._broken() from None
        return None

    def _broken(self) -> WorkerError:
        return WorkerError(
            "a worker process died without a word, most often because memory ran out; "
            f"run again with --workers {self.count // 2}: finished cases are kept."
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """End the processes; calls that wait are not begun."""
        self._pool.shutdown(wait=wait, cancel_futures=cancel_futures)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        """As `shutdown`; somebody who interrupts us does not wait for the cases that have begun."""
        if problem is not None and not isinstance(problem, Exception):
            self._stop()
        self.shutdown()
        return None

    def _stop(self) -> None:
        """Have the processes take away what they are writing, and end."""
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        limit = time.monotonic() + STOP_SECONDS
        for process in processes:
            process.join(max(0.0, limit - time.monotonic()))
            if process.is_alive():
                process.kill()


def map_cases(
    function: Callable[..., Result],
    items: Sequence[Item],
    *arguments: object,
    executor: CaseExecutor,
) -> Iterator[tuple[Item, Result | RenalplanError]]:
    """Call `function(item, *arguments)` for each item.

    Args:
        function: Importable by name, since other processes are to call it.
        items: One per case.
        arguments: The same for every call.
        executor: Who computes.

    Yields:
        (item, result) in the order in which they end, or (item, error) if that item's call raised
        one of our errors, or was lost alone. Other exceptions are defects and rise.

    Raises:
        WorkerError: a worker process died (killed for memory, or crashed), or the cluster is gone.
    """
    executor = executor.suited(len(items))
    waiting: dict[Future[Result], Item] = {}
    rest = iter(items)
    try:
        while True:
            for item in islice(rest, max(0, executor.room() - len(waiting))):
                waiting[executor.submit(function, item, *arguments)] = item
            if not waiting:
                return
            ended = wait(waiting, timeout=TICK_SECONDS, return_when=FIRST_COMPLETED).done
            if not ended:
                executor.check(len(waiting))
            for future in ended:
                outcome = _outcome(future, executor)
                yield waiting.pop(future), outcome
    finally:  # after a defect, or when nobody asks on, what has not begun is not begun
        for future in waiting:
            future.cancel()


def _outcome(future: Future[Result], executor: CaseExecutor) -> Result | RenalplanError:
    try:
        return future.result()
    except RenalplanError as problem:
        return problem
    except Exception as problem:
        if (lost := executor.lost(problem)) is None:
            raise
        return lost


def of_case(case: str, problem: RenalplanError) -> RenalplanError:
    """The same error with the case's name, if it cannot know it: others name their file."""
    return WorkerError(f"{case}: {problem}") if isinstance(problem, WorkerError) else problem
