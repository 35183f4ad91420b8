"""When an epoch ends, when training does, and the learning rate of every step, for the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from torch import nn

if TYPE_CHECKING:
    from renalplan.trainers.phase import TrainedNetwork
    from renalplan.trainers.task import TrainingTask

Figures = dict[str, float]


class Schedule(Protocol):
    """How one network is trained.

    Attributes:
        workers: Processes that prepare batches.
        done: Steps that have been trained, those of earlier runs included.
    """

    workers: int
    done: int

    @property
    def steps_in_all(self) -> int:
        """How many steps it will be, as far as that is known."""
        ...

    @property
    def length(self) -> str:
        """How many epochs it will be, for the user."""
        ...

    @property
    def remark(self) -> str:
        """When it will be over, for the user; empty if nobody asked for a time."""
        ...

    def epochs(self, epoch: int, done: int) -> Iterator[int]:
        """Numbers of the epochs to train, from `epoch` on, `done` steps after the beginning."""
        ...

    def steps(self, epoch: int) -> Iterator[tuple[int, float]]:
        """Number and learning-rate factor of every step of an epoch: at least one."""
        ...

    def look(self, validate: Callable[[], Figures]) -> Figures:
        """The quick figures at the end of an epoch; empty if there is no time for them."""
        ...

    def finish_epoch(self, network: nn.Module) -> None:
        """Called when an epoch is in the log and in the checkpoint."""
        ...


class FixedSchedule:
    """As many epochs and steps as the settings say: a function of nothing else."""

    def __init__(self, phase: TrainedNetwork, workers: int) -> None:
        self.phase = phase
        self.workers = workers
        self.done = 0

    @property
    def steps_in_all(self) -> int:
        """See `Schedule`."""
        return self.phase.epochs * self.phase.iterations

    @property
    def length(self) -> str:
        """See `Schedule`."""
        return str(self.phase.epochs)

    @property
    def remark(self) -> str:
        """See `Schedule`."""
        return ""

    def epochs(self, epoch: int, done: int) -> Iterator[int]:
        """See `Schedule`."""
        self.done = done
        yield from range(epoch, self.phase.epochs)

    def steps(self, epoch: int) -> Iterator[tuple[int, float]]:
        """See `Schedule`."""
        size = self.phase.iterations
        for step in range(epoch * size, (epoch + 1) * size):
            yield step, self.phase.rate(step, self.steps_in_all)
            self.done = step + 1

    def look(self, validate: Callable[[], Figures]) -> Figures:
        """See `Schedule`."""
        return validate()

    def finish_epoch(self, network: nn.Module) -> None:
        """See `Schedule`."""


def schedule_of(phase: TrainedNetwork, task: TrainingTask) -> Schedule:
    """The settings' schedule, or one that fits the task's budget.

    Raises:
        UsageError: the budget is too small.
    """
    if task.budget is None:
        return FixedSchedule(phase, task.hardware.workers)
    return task.budget.schedule(phase, task)
