"""A cluster as an executor, with a client made up here: what is refused, lost, and waited for.

A real one, of two processes, is in `tests/commands/test_dask.py`.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from renalplan import cluster as module
from renalplan import on_worker
from renalplan.cluster import Cluster, Shared, connect
from renalplan.errors import UsageError, WorkerError
from renalplan.executors import open_executor
from renalplan.on_worker import View, code_version, look
from renalplan.parallel import map_cases

ADDRESS = "tcp://node:8786"


class Client:
    """As `distributed.Client`: its workers never end anything, unless told."""

    status = "running"
    view: Callable[[View], object] = staticmethod(lambda seen: seen)

    def __init__(self, address: str, timeout: float, set_as_default: bool) -> None:
        self.address = address
        self.present = 2
        self.sent: list[Future[Any]] = []
        self.closed = False

    def wait_for_workers(self, count: int, timeout: float) -> None:
        if self.present < count:
            raise TimeoutError

    def nthreads(self, callback_timeout: float) -> dict[str, int]:
        return {f"tcp://worker:{number}": 1 for number in range(self.present)}

    def run(self, function: Callable[..., View], *given: Any, on_error: str) -> dict[str, object]:
        assert on_error == "return"
        return {"tcp://worker:0": function(*given), "tcp://worker:1": self.view(function(*given))}

    def get_executor(self, pure: bool) -> Client:
        assert not pure  # else dask would take an earlier run's result for it
        return self

    def submit(self, *call: Any) -> Future[Any]:
        self.sent.append(Future())
        return self.sent[-1]

    def shutdown(self, wait: bool) -> None:
        assert not wait

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    """A class of the test's own in place of dask's."""
    kind = type("Client", (Client,), {})
    fake: Any = types.ModuleType("distributed")
    fake.Client = kind
    fake.KilledWorker = type("KilledWorker", (Exception,), {})
    monkeypatch.setitem(sys.modules, "distributed", fake)
    return kind


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("renalplan.parallel.TICK_SECONDS", 0.06)
    monkeypatch.setattr(module, "NO_WORKERS_SECONDS", 0.1)


def test_no_more_calls_are_sent_than_there_are_workers(client: type[Client]) -> None:
    with connect(ADDRESS) as cluster:
        assert cluster.room() == 2
        cluster._client.present = 0
        assert cluster.room() == 1  # sent, so that dask may start a worker for it
        cluster._client.status = "closed"
        cluster._client.present = 5
        assert cluster.workers() == 0
    assert cluster._client.closed


@pytest.mark.usefixtures("quick")
def test_a_cluster_without_workers_is_given_up(client: type[Client]) -> None:
    with connect(ADDRESS) as cluster:
        cluster._client.present = 0
        with pytest.raises(WorkerError, match=r"has had no workers for 0\.1 s; start some"):
            list(map_cases(abs, [1, 2], executor=cluster))
        assert [future.cancelled() for future in cluster._client.sent] == [True]


@pytest.mark.usefixtures("quick")
def test_a_cluster_that_finishes_nothing_is_given_up(client: type[Client]) -> None:
    with (
        connect(ADDRESS, case_seconds=0.1) as cluster,
        pytest.raises(WorkerError, match=f"no case was finished by the dask cluster at {ADDRESS}"),
    ):
        list(map_cases(abs, [1, 2], executor=cluster))


def test_a_scheduler_that_is_gone_ends_the_run(client: type[Client]) -> None:
    with connect(ADDRESS) as cluster:
        with pytest.raises(WorkerError, match=f"scheduler at {ADDRESS} is gone; run the same"):
            cluster.lost(CancelledError())
        assert cluster.lost(ValueError("a defect")) is None


def test_a_cluster_without_any_worker_is_refused(
    client: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "wait_for_workers", lambda *_, **__: _raise(TimeoutError()))
    with (
        pytest.raises(
            UsageError, match=f"no worker has come in 30 s; start some with `dask worker {ADDRESS}`"
        ),
        connect(ADDRESS),
    ):
        pass


def _raise(problem: Exception) -> None:
    raise problem


@pytest.mark.parametrize(
    ("view", "sentence"),
    [
        (lambda seen: replace(seen, code="0.0.9 (12ab)"), "has renalplan 0.0.9 (12ab), this machine"),
        (lambda seen: ImportError("No module named 'renalplan'"), "cannot run renalplan 0.1.0"),
        (lambda seen: replace(seen, unseen=Path("/data/a.nii")), "does not see /data/a.nii as this"),
        (lambda seen: replace(seen, unseen=Path("/out/.tmp-1-x")), "does not see /out as this"),
        (lambda seen: replace(seen, closed=Path("/out")), "may not write into /out"),
    ],
)  # fmt: skip
def test_a_worker_that_cannot_do_the_work_is_refused_before_any(
    client: type[Client], tmp_path: Path, view: Callable[[View], object], sentence: str
) -> None:
    client.view = staticmethod(view)
    with (
        pytest.raises(UsageError) as refused,
        open_executor(None, ADDRESS, writes=tmp_path / "to" / "be" / "made"),
    ):
        pass
    assert f"--dask {ADDRESS}: the worker tcp://worker:1 " in str(refused.value)
    assert sentence in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_looks_at_sizes_and_permissions(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("four")
    seen = look({file: 4}, tmp_path)
    assert (seen.code, seen.unseen, seen.closed) == (code_version(), None, None)
    assert look({file: 5}, tmp_path).unseen == file
    assert look({tmp_path / "none": 0}, None).unseen == tmp_path / "none"
    assert look({}, tmp_path / "none").closed == tmp_path / "none"


def test_a_worker_that_came_later_with_other_code_computes_nothing() -> None:
    with pytest.raises(WorkerError, match=r"has renalplan .*, this machine has 0\.0\.9 \(12ab\)"):
        on_worker.call("0.0.9 (12ab)", _raise, RuntimeError())


def test_the_version_is_that_of_the_sources() -> None:
    code_version.cache_clear()
    first = code_version()
    code_version.cache_clear()
    assert first == code_version()
    assert first.startswith("0.1.0 (")


def test_what_is_shared_may_be_nothing(client: type[Client]) -> None:
    with connect(ADDRESS, Shared()) as cluster:
        assert isinstance(cluster, Cluster)
