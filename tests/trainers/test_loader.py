"""Batches come in order and are the same whoever makes them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from renalplan.errors import WorkerError
from renalplan.trainers.loader import Batches


@dataclass(frozen=True)
class Numbers:
    """A source whose batch is its step and a random number of that step; it dies at `fatal`."""

    fatal: int = -1
    by_signal: bool = False

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        if step == self.fatal:
            if self.by_signal:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("this step cannot be made")
        noise = torch.rand(2, generator=torch.Generator().manual_seed(step))
        return {"image": torch.cat([torch.tensor([float(step)]), noise])}


def _first(count: int, *, workers: int, start: int = 0) -> torch.Tensor:
    batches = Batches(Numbers(), start, workers=workers)
    try:
        return torch.stack([next(batches)["image"] for _ in range(count)])
    finally:
        batches.close()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("start", [0, 7])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_the_same_with_any_number_of_workers(workers: int, start: int) -> None:
    expected = torch.stack([Numbers().batch(start + n)["image"] for n in range(5)])
    assert torch.equal(_first(5, workers=workers, start=start), expected)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("by_signal", [False, True], ids=["raises", "is killed"])
def test_a_worker_that_dies_ends_training_with_a_sentence(by_signal: bool) -> None:
    batches = Batches(Numbers(fatal=2, by_signal=by_signal), 0, workers=1)
    with pytest.raises(WorkerError, match=r"a data worker died .*--workers 0"):
        [next(batches) for _ in range(4)]
    batches.close()


def _gone() -> None:
    raise EOFError


class Broken:
    """Cannot be taken over, like a tensor whose worker died in the middle of it."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _gone, ()


class Half:
    def batch(self, step: int) -> dict[str, Any]:
        return {"image": torch.zeros(1), "broken": Broken()}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_while_its_batch_is_fetched_is_not_waited_for() -> None:
    def give_up(*_: object) -> None:
        raise AssertionError("it waits for ever")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    batches = Batches(Half(), 0, workers=1)  # type: ignore[arg-type]
    try:
        with pytest.raises(WorkerError, match=r"a data worker died .*--workers 0"):
            next(batches)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        batches.close()


def test_without_workers_an_error_is_itself() -> None:
    batches = Batches(Numbers(fatal=0), 0, workers=0)
    with pytest.raises(ValueError, match="this step cannot be made"):
        next(batches)
