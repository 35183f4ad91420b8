"""A map over cases: in this process or in several, results as they come, errors with their case."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from renalplan.errors import RenalplanError, WorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Cores this process may run on (what a container or a scheduler allows)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_cases(
    function: Callable[..., Result], items: Sequence[Item], *arguments: Any, workers: int = 0
) -> Iterator[tuple[Item, Result | RenalplanError]]:
    """Call `function(item, *arguments)` for each item.

    Args:
        function: Importable by name, since worker processes are started afresh.
        items: One per case.
        arguments: The same for every call.
        workers: Processes; 0 computes here, one after the other.

    Yields:
        (item, result), or (item, error) if that item's call raised one of our errors. Other
        exceptions are defects and rise.

    Raises:
        WorkerError: a worker process died (killed for memory, or crashed).
    """
    if workers <= 0 or len(items) <= 1:
        for item in items:
            try:
                yield item, function(item, *arguments)
            except RenalplanError as problem:
                yield item, problem
        return
    context = multiprocessing.get_context("spawn")
    threads = max(1, usable_cores() // workers)
    with ProcessPoolExecutor(
        min(workers, len(items)),
        mp_context=context,
        initializer=_limit_threads,
        initargs=(threads,),
    ) as pool:
        try:
            futures = {pool.submit(function, item, *arguments): item for item in items}
            for future in as_completed(futures):
                try:
                    result: Result | RenalplanError = future.result()
                except RenalplanError as problem:
                    result = problem
                yield futures[future], result
        except BrokenProcessPool:
            raise WorkerError(
                "a worker process died without a word, most often because memory ran out; "
                f"run again with --workers {workers // 2}: finished cases are kept."
            ) from None
        finally:  # after a defect, or when nobody asks on, the cases that wait are not begun
            pool.shutdown(wait=True, cancel_futures=True)


def _limit_threads(threads: int) -> None:
    """Share the cores between the workers instead of having each take them all."""
    import torch

    torch.set_num_threads(threads)
