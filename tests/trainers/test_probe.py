"""The probe: a step's time split in waiting and training, and the number of workers that follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from renalplan.trainers.loader import Batches
from renalplan.trainers.phase import TrainedNetwork
from renalplan.trainers.probe import _choose_workers, candidates, machine_of, measure
from renalplan.trainers.supervised import SupervisedSettings
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.unet import UNet


@pytest.mark.parametrize(
    ("batch_s", "train_s", "most", "expected"),
    [
        (0.1, 1.0, 12, [1, 2, 12]),
        (3.5, 1.0, 12, [4, 8, 12]),
        (3.5, 1.0, 2, [2]),
        (1.0, 0.0, 3, [3]),
        (0.1, 1.0, 0, []),
    ],
)
def test_workers_are_tried_that_could_keep_up(
    batch_s: float, train_s: float, most: int, expected: list[int]
) -> None:
    assert candidates(batch_s, train_s, most) == expected


class Machine:
    """Steps of a machine whose loader scales as it is told, timed by a clock of its own."""

    def __init__(self, waits: dict[int, float], train_s: float = 1.0) -> None:
        self.waits, self.train_s, self.time = waits, train_s, 0.0
        self.tried: list[int] = []

    def now(self) -> float:
        return self.time

    def steps(self, workers: int, seconds: float) -> tuple[float, float]:
        self.tried.append(workers)
        self.time += max(seconds, 3 * (self.waits[workers] + self.train_s))
        return self.waits[workers], self.train_s


def choose(machine: Machine, seconds: float, asked: int | None = None) -> tuple[int, float]:
    return _choose_workers(machine, 12, seconds, asked)  # type: ignore[arg-type]


def test_the_fewest_workers_that_make_it_fast_are_taken() -> None:
    machine = Machine({0: 3.5, 4: 0.5, 8: 0.01, 12: 0.0})
    assert choose(machine, 2000) == (8, pytest.approx(1.01))
    assert machine.tried == [0, 4, 8, 12]


def test_workers_that_do_not_help_are_not_taken() -> None:
    machine = Machine({0: 0.02, 1: 0.01})  # the worker takes a core that training needs
    assert choose(machine, 200) == (0, pytest.approx(1.02))
    assert machine.tried == [0, 1]


def test_where_there_is_no_time_to_try_arithmetic_decides() -> None:
    machine = Machine({0: 1.5})
    assert choose(machine, 12) == (2, 1.0)
    assert machine.tried == [0]


@pytest.mark.parametrize("asked", [0, 3])
def test_a_number_that_was_asked_for_is_taken(asked: int) -> None:
    machine = Machine({0: 1.5, 3: 0.1})
    assert choose(machine, 200, asked)[0] == asked
    assert machine.tried == [asked]


class Ticks:
    """A clock that is a second later every time it is read."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1
        return self.seconds


def _phase(task: TrainingTask) -> TrainedNetwork:
    settings = SupervisedSettings(epochs=1, iterations=1, validation_iterations=0)
    (phase,) = UNet(task, settings).phases()
    assert isinstance(phase, TrainedNetwork)
    return phase


def test_a_network_is_measured_with_its_own_batches_and_nothing_is_left_behind(
    make_task: Callable[..., TrainingTask],
) -> None:
    task = make_task("whole")
    pace = measure(_phase(task), task, 0.0, 0, now=Ticks())
    # a reading before the batch, one after it, one after the step
    assert (pace.workers, pace.step_s, pace.window_s) == (0, 2.0, 1.0)
    assert pace.machine == machine_of(task, 0)
    assert not task.fold_folder.exists()


def test_workers_that_were_started_are_ended(
    make_task: Callable[..., TrainingTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    real = Batches.close

    def close(batches: Batches) -> None:
        closed.append(1)
        real(batches)

    monkeypatch.setattr(Batches, "close", close)
    task = make_task("whole")
    task = replace(task, hardware=replace(task.hardware, workers=1))
    assert measure(_phase(task), task, 0.0, 1, now=Ticks()).workers == 1
    assert closed == [1]


def test_a_pace_holds_for_one_machine(make_task: Callable[..., TrainingTask]) -> None:
    task = make_task("whole")
    other = replace(task, hardware=replace(task.hardware, device="cuda:1"))
    names = {machine_of(t, w) for t in (task, other) for w in (None, 0, 4)}
    assert len(names) == 6
