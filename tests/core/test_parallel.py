import math
import os

import pytest

from renalplan.errors import UsageError, WorkerError
from renalplan.parallel import map_cases, usable_cores
from renalplan.splits import parse_fold


@pytest.mark.parametrize("workers", [0, 2])
def test_results_and_our_errors_come_with_their_items(workers: int) -> None:
    found = dict(map_cases(parse_fold, ["1", "none", "all"], workers=workers))
    assert found["1"] == 1
    assert found["all"] == "all"
    assert isinstance(found["none"], UsageError)
    assert str(found["none"]) == "FOLD 'none' is not a number from 0, 'all' or 'cv'."


def test_the_same_arguments_go_to_every_item() -> None:
    assert dict(map_cases(pow, [2, 3], 4)) == {2: 16, 3: 81}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_defect_rises(workers: int) -> None:
    with pytest.raises(TypeError):
        list(map_cases(math.sqrt, ["one", "two"], workers=workers))  # type: ignore[list-item]


def test_a_dead_worker_is_an_error_with_advice() -> None:
    with pytest.raises(WorkerError, match=r"worker process died .* run again with --workers 1"):
        list(map_cases(os._exit, [3, 4], workers=2))


def test_a_single_item_needs_no_process() -> None:
    assert list(map_cases(_pid, [0], workers=4)) == [(0, os.getpid())]


def _pid(_: int) -> int:
    return os.getpid()


def test_nothing_to_do_gives_nothing() -> None:
    assert list(map_cases(math.sqrt, [], workers=2)) == []


def test_there_is_a_core() -> None:
    assert usable_cores() >= 1
