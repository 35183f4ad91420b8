import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import pytest

from renalplan.errors import DatasetError, UsageError, WorkerError
from renalplan.executors import default_workers, open_executor
from renalplan.parallel import CaseExecutor, Here, Processes, map_cases, of_case, usable_cores
from renalplan.splits import parse_fold


@pytest.fixture(scope="module", params=["here", "processes"])
def executor(request: pytest.FixtureRequest) -> Iterator[CaseExecutor]:
    """The two of this machine; `tests/commands/test_dask.py` has the third."""
    with Here() if request.param == "here" else Processes(2) as found:
        yield found


def test_results_and_our_errors_come_with_their_items(executor: CaseExecutor) -> None:
    found = dict(map_cases(parse_fold, ["1", "none", "all"], executor=executor))
    assert found["1"] == 1
    assert found["all"] == "all"
    assert isinstance(found["none"], UsageError)
    assert str(found["none"]) == "FOLD 'none' is not a number from 0, 'all' or 'cv'."


def test_every_item_is_computed_once_however_many_there_are(executor: CaseExecutor) -> None:
    assert sorted(map_cases(abs, range(-40, 0), executor=executor)) == [
        (number, -number) for number in range(-40, 0)
    ]


def test_the_same_arguments_go_to_every_item(executor: CaseExecutor) -> None:
    assert dict(map_cases(pow, [2, 3], 4, executor=executor)) == {2: 16, 3: 81}


def test_a_defect_rises(executor: CaseExecutor) -> None:
    with pytest.raises(TypeError):
        list(map_cases(math.sqrt, ["one", "two"], executor=executor))


def test_here_computes_a_case_when_it_is_asked_for() -> None:
    begun: list[int] = []
    results = map_cases(begun.append, [1, 2, 3], executor=Here())
    next(results)
    assert begun == [1]
    results.close()  # type: ignore[attr-defined]
    assert begun == [1]


def test_a_dead_worker_is_an_error_with_advice() -> None:
    with (
        Processes(2) as executor,
        pytest.raises(WorkerError, match=r"worker process died .* run again with --workers 1"),
    ):
        list(map_cases(os._exit, [3, 4], executor=executor))


def test_a_single_item_needs_no_process() -> None:
    with Processes(4) as executor:
        assert list(map_cases(_pid, [0], executor=executor)) == [(0, os.getpid())]


def _pid(_: int) -> int:
    return os.getpid()


def test_nothing_to_do_gives_nothing(executor: CaseExecutor) -> None:
    assert list(map_cases(math.sqrt, [], executor=executor)) == []


class Slow(Here):
    """Ends nothing, until it is told that waiting makes no sense."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []
        self.checked = threading.Event()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]

    def room(self) -> int:
        return 2

    def check(self, waiting: int) -> None:
        raise WorkerError(f"{waiting} wait for nobody.")


def test_an_executor_may_end_the_waiting_and_what_has_not_begun_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("renalplan.parallel.TICK_SECONDS", 0.01)
    executor = Slow()
    with pytest.raises(WorkerError, match="2 wait for nobody"):
        list(map_cases(abs, [1, 2, 3], executor=executor))
    assert [future.cancelled() for future in executor.futures] == [True, True]


def test_a_lost_case_is_named_and_other_errors_are_left_as_they_are() -> None:
    assert str(of_case("case_1", WorkerError("it is gone."))) == "case_1: it is gone."
    known = DatasetError("a.nii.gz is damaged.")
    assert of_case("case_1", known) is known


def test_the_executor_is_the_one_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("renalplan.executors.usable_cores", lambda: 3)
    with ExitStack() as stack:
        assert isinstance(stack.enter_context(open_executor(0)), Here)
        assert isinstance(stack.enter_context(open_executor(None, cases=1)), Here)
        two = stack.enter_context(open_executor(2))
        assert isinstance(two, Processes)
        assert two.count == 2
        many = stack.enter_context(open_executor(None, cases=9))
        assert isinstance(many, Processes)
        assert many.count == default_workers(9) == 3
    with pytest.raises(UsageError, match="leave one of the two out"), open_executor(2, "tcp://a:1"):
        pass


def test_there_is_a_core() -> None:
    assert usable_cores() >= 1
