"""Results written in a thread: in order, one at a time, and what goes wrong is not lost."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from renalplan.errors import WorkerError
from renalplan.inference.writer import BackgroundWriter, WriteHere


def test_a_result_waits_for_the_last_one(tmp_path: Path) -> None:
    writer = BackgroundWriter(tmp_path)
    go, order = threading.Event(), []

    def first() -> None:
        assert go.wait(60)
        order.append(1)

    writer.put(first)  # returns at once
    assert order == []
    threading.Timer(0.05, go.set).start()
    writer.put(lambda: order.append(2))
    assert order[0] == 1
    writer.close()
    assert order == [1, 2]


@pytest.mark.parametrize(
    "problem", [OSError(28, "no space"), TimeoutError("its own"), ValueError()]
)
def test_what_a_write_raises_comes_with_the_next_call_once(
    tmp_path: Path, problem: Exception
) -> None:
    def fail() -> None:
        raise problem

    writer, written = BackgroundWriter(tmp_path), []
    writer.put(fail)
    with pytest.raises(type(problem)):
        writer.put(lambda: written.append(1))
    writer.close()
    assert written == []


def test_a_write_without_progress_is_given_up(tmp_path: Path) -> None:
    go = threading.Event()
    writer = BackgroundWriter(tmp_path, patience=0.5)
    writer.put(lambda: bool(go.wait(60)))
    with pytest.raises(WorkerError, match=r"has made no progress for 0\.5 s; is the disk"):
        writer.finish()
    go.set()


def test_without_a_thread_it_is_written_at_once() -> None:
    written: list[int] = []
    WriteHere().put(lambda: written.append(threading.get_ident()))
    assert written == [threading.get_ident()]
