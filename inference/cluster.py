"""Cases sent to a dask cluster that sees the same files: one task a case, one case at a time a process."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from renalplan.errors import ModelError, UsageError, WorkerError
from renalplan.imports import trust
from renalplan.inference.failures import Failure, ForeignError, explain
from renalplan.inference.job import Ledger, remove_leftovers_of, start_job
from renalplan.inference.scans import ScanFiles
from renalplan.inference.vitals import Patience

if TYPE_CHECKING:
    from renalplan.inference.predictor import Predictor

CONNECT_SECONDS = 30
TICK_SECONDS = 2.0
NO_WORKERS_SECONDS = 300.0  # how long a cluster may have no workers
CASE_SECONDS = 12 * 3600.0  # how long no case at all may be finished: a worker hangs


class Task(Protocol):
    """A case that was sent."""

    def result(self) -> dict[str, Any]:
        """What `predict_on_worker` returned, or raises why there is nothing."""
        ...

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        """Have something called when it has ended in any way."""
        ...


class Cluster(Protocol):
    """What is needed of a cluster."""

    address: str

    def submit(self, *call: Any) -> Task:
        """Call a function by its importable name with arguments on some worker."""
        ...

    def workers(self) -> int:
        """How many are known, at least whether there are any; 0 as well if the scheduler is gone."""
        ...

    def cancel(self, tasks: Sequence[Task]) -> None:
        """Give tasks up."""
        ...


class DaskCluster:
    """A cluster of `dask.distributed`."""

    def __init__(self, client: Any, address: str) -> None:
        self._client = client
        self.address = address

    def submit(self, *call: Any) -> Task:
        """See `Cluster`; a case whose worker dies is sent to another by dask, three times at most."""
        task: Task = self._client.submit(*call, pure=False)
        return task

    def workers(self) -> int:
        """See `Cluster`."""
        if self._client.status != "running":
            return 0
        with suppress(OSError):
            return len(self._client.scheduler_info()["workers"])
        return 0

    def cancel(self, tasks: Sequence[Task]) -> None:
        """See `Cluster`."""
        self._client.cancel(list(tasks))


@contextmanager
def connect(address: str) -> Iterator[DaskCluster]:
    """The cluster of the scheduler at `address`, e.g. `tcp://node1:8786`.

    Raises:
        UsageError: `distributed` is not installed, or nobody answers.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(
            "--dask needs the package distributed: pip install 'renalplan[dask]'."
        ) from None
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as problem:
        reason = " ".join(str(problem).split()).rstrip(".")
        raise UsageError(
            f"--dask {address}: no scheduler answers ({reason}); "
            "give its address as `dask scheduler` prints it."
        ) from None
    try:
        yield DaskCluster(client, address)
    finally:
        client.close()


def run_on_cluster(
    cluster: Cluster,
    recipe: dict[str, Any],
    scans: Sequence[ScanFiles],
    out: Path,
    ledger: Ledger,
    *,
    save_probabilities: bool = False,
) -> None:
    """As `run_job`, by the workers of a cluster.

    Args:
        cluster: Sees the same files under the same names.
        recipe: `Predictor.recipe()`.
        scans: All cases.
        out: Folder for the results.
        ledger: With a report that knows what is there already.
        save_probabilities: Also write probabilities.

    Raises:
        ModelError: a worker cannot open the model.
        OSError: a worker cannot write a result.
        WorkerError: the scheduler or all workers are gone, or nothing is finished any more.
    """
    chosen = start_job(scans, out, ledger, save_probabilities=save_probabilities)
    ended: queue.SimpleQueue[tuple[str, Task]] = queue.SimpleQueue()
    tasks: dict[str, Task] = {}
    where = str(out.resolve())
    try:
        for scan in chosen:
            there = replace(scan, images=tuple(path.absolute() for path in scan.images))
            task = cluster.submit(
                predict_on_worker, recipe, there.as_json(), where, save_probabilities
            )
            tasks[scan.id] = task
            task.add_done_callback(partial(_put, ended, scan.id))
        none_there = Patience(NO_WORKERS_SECONDS, time.monotonic)
        none_done = Patience(CASE_SECONDS, time.monotonic)
        while tasks:
            try:
                case, task = ended.get(timeout=TICK_SECONDS)
            except queue.Empty:
                _check(cluster, none_there, none_done, len(tasks))
                continue
            del tasks[case]
            _note(case, task, ledger)
        remove_leftovers_of(chosen, out, also="")  # of workers that died while they wrote
    finally:
        if tasks:
            cluster.cancel(list(tasks.values()))


def _put(ended: queue.SimpleQueue[tuple[str, Task]], case: str, task: Task) -> None:
    ended.put((case, task))


def _check(cluster: Cluster, none_there: Patience, none_done: Patience, waiting: int) -> None:
    sign = time.monotonic() if cluster.workers() else "nobody"
    if none_there.spent(sign):
        raise WorkerError(
            f"the dask cluster at {cluster.address} has had no workers for {none_there.seconds:g} s; "
            "start some and run the same command again: it continues."
        )
    if none_done.spent(waiting):
        raise WorkerError(
            f"no case was finished by the dask cluster at {cluster.address} in "
            f"{none_done.seconds / 3600:g} hours; look at its workers and run the same command again."
        )


def _note(case: str, task: Task, ledger: Ledger) -> None:
    """Enter what became of a case."""
    try:
        answer = task.result()
    except Exception as problem:  # dask's own: a worker that died, a task that was lost
        said = " ".join(str(problem).split())
        ledger.failed(
            case, WorkerError(f"the dask cluster lost it ({type(problem).__name__}: {said}).")
        )
        return
    if "model" in answer:
        raise ModelError(answer["model"])
    if "system" in answer:
        raise OSError(*answer["system"])
    if "failed" in answer:
        ledger.failed(case, ForeignError(Failure(answer["failed"], answer["traceback"])))
    else:
        ledger.done(case, answer["inputs"], answer["seconds"])


_one_at_a_time = threading.Lock()  # a worker may have several threads, its memory is for one case


def predict_on_worker(
    recipe: dict[str, Any], scan: dict[str, Any], out: str, save_probabilities: bool
) -> dict[str, Any]:
    """Predict one case in this process; the model stays open for the next one.

    Returns:
        `inputs` and `seconds`; or `failed` and `traceback`; or `model` or `system` if no other case
        would fare better.
    """
    case = ScanFiles.from_json(scan)
    with _one_at_a_time:
        start = time.monotonic()
        try:
            predictor = _open(json.dumps(recipe, sort_keys=True))
            inputs = case.fingerprint()
            try:
                volume = case.read()
            except Exception as problem:
                return _failed(problem)
            write = predictor.segment_case(
                case, volume, Path(out), save_probabilities=save_probabilities
            )
            write()
        except (ModelError, UsageError) as problem:  # UsageError: no such device on the worker
            return {"model": str(problem)}
        except OSError as problem:
            return {
                "system": [problem.errno or 0, problem.strerror or str(problem), problem.filename]
            }
        except Exception as problem:
            return _failed(problem)
        return {"inputs": inputs, "seconds": round(time.monotonic() - start, 2)}


def _failed(problem: Exception) -> dict[str, Any]:
    failure = explain(problem)
    return {"failed": failure.reason, "traceback": failure.traceback}


@lru_cache(maxsize=1)
def _open(recipe: str) -> Predictor:
    from renalplan.inference.predictor import Predictor

    values = json.loads(recipe)
    for module in values["plugins"]:
        trust(module)
    predictor = Predictor.from_recipe(values)
    if predictor.job() != values["job"]:
        raise ModelError(
            f"a dask worker sees other weights in {', '.join(m['path'] for m in values['members'])} "
            "than this machine; all need the same file system."
        )
    for member in predictor.members:
        member.load()
    return predictor
