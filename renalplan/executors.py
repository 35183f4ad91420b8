"""Who computes a command's cases: this process, several of this machine, or a dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from renalplan.errors import UsageError
from renalplan.parallel import CaseExecutor, Here, Processes, usable_cores


def default_workers(cases: int) -> int:
    """One process a core, at most one a case; a single one computes in this process."""
    count = min(usable_cores(), cases)
    return count if count > 1 else 0


@contextmanager
def open_executor(
    workers: int | None,
    dask: str | None = None,
    *,
    cases: int = 0,
    reads: tuple[Path, ...] = (),
    writes: Path | None = None,
    case_seconds: float | None = None,
) -> Iterator[CaseExecutor]:
    """The executor for a loop over cases, or several loops; closed at the end of the block.

    Args:
        workers: Processes of this machine; 0 computes in this one, None decides by `cases`.
        dask: Address of a dask scheduler whose workers compute instead.
        cases: How many there are at most.
        reads: Some of the files that workers of a cluster must see.
        writes: The folder they write into.
        case_seconds: How long a cluster may finish no case at all; None takes the default.

    Raises:
        UsageError: `workers` is negative, both `workers` and `dask` are given, or the cluster cannot do the work.
    """
    if workers is not None and workers < 0:
        raise UsageError(f"--workers {workers} is not possible; 0 computes in this process alone.")
    if dask is None:
        count = default_workers(cases) if workers is None else workers
        with Processes(count) if count > 0 else Here() as executor:
            yield executor
        return
    if workers is not None:
        raise UsageError(
            f"--workers {workers} is about processes of this machine, and with --dask the cluster's "
            "workers compute; leave one of the two out."
        )
    from renalplan.cluster import CASE_SECONDS, Shared, connect

    limit = CASE_SECONDS if case_seconds is None else case_seconds
    with connect(dask, Shared(reads, writes), case_seconds=limit) as cluster:
        yield cluster
