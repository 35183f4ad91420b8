"""Warm-up, stable, decay, by the clock: training that is annealed when its time is over.

The decay is a function of time, not of steps, so it ends in time however fast the machine turns out
to be; on a slower one it begins after fewer steps.

Sources:
    [Hu2024] S. Hu et al., MiniCPM, arXiv:2404.06395: warm-up, stable, decay.
    [Hagele2024] A. Hägele et al., Scaling laws and compute-optimal training beyond fixed training
    durations, arXiv:2405.18392: a decay over a fifth of the steps, 1 - sqrt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

from torch import nn

from renalplan.durations import duration_text
from renalplan.files import Record
from renalplan.trainers.clock import Clock
from renalplan.trainers.phase import TrainedNetwork
from renalplan.trainers.schedules import Figures

WARM_UP = 0.02  # share of the steps
MOST_WARM_UP = 1000  # steps
DECAY = 0.2  # share of the time
LEAST_DECAY = 20  # steps, about, also where there is no time left: else nothing would be annealed
EARLY_DECAY = 0.05  # of the time trained so far, when somebody asks to stop
LONGEST_EARLY_DECAY = 300.0  # seconds: who asks to stop will not wait for longer
LOOK_SHARE = 0.1  # of the time, at most, goes into quick figures
EPOCHS = 50  # of a long training; a short one has at least 5
SHORT_EPOCH = 10.0  # seconds; shorter ones write more than they train


class Pace(Record):
    """What the probe found out about a network on a machine.

    Attributes:
        machine: Where it was measured.
        workers: Data workers with which training is fastest.
        step_s: Seconds a training step with them.
        window_s: Seconds to predict one patch.
    """

    machine: str
    workers: int
    step_s: float
    window_s: float


class Keeper(Protocol):
    """Who divides the time between a fold's networks."""

    def end(self, phase: TrainedNetwork) -> float:
        """Seconds on the fold's clock when this network's training must be over."""
        ...

    def over_in(self, schedule: TimedSchedule) -> float:
        """Seconds until the whole fold is over."""
        ...

    def tick(self, seconds: float) -> None:
        """A step was done; the fold's clock says so many seconds."""
        ...

    def finish_epoch(self, schedule: TimedSchedule, network: nn.Module) -> None:
        """An epoch is in the checkpoint."""
        ...

    def stopping(self, schedule: TimedSchedule, seconds: float) -> None:
        """Somebody asked to stop, so what is left of the training takes so many seconds."""
        ...


@dataclass
class _EarlyDecay:
    """A decay that somebody asked for: its begin and length in seconds, and where it began."""

    begin: float
    length: float
    position: float


class TimedSchedule:
    """See `Schedule`; one network's part of a budget.

    Attributes:
        phase: Whose training.
        workers: Processes that prepare batches.
        begin: When it began on the fold's clock, seconds.
        done: Steps trained.
        step_s: Seconds a step takes now.
        decay: How far the decay is, 0 to 1; training is over at 1.
    """

    def __init__(
        self,
        phase: TrainedNetwork,
        pace: Pace,
        clock: Clock,
        keeper: Keeper,
        begin: float,
        decay: float = 0.0,
    ) -> None:
        self.phase = phase
        self.workers = pace.workers
        self.begin = begin
        self.done = 0
        self.step_s = pace.step_s
        self.decay = 0.0
        self._last_decay = decay  # of the last step, at first the checkpoint's
        self._clock = clock
        self._keeper = keeper
        self._warm_up = 1
        self._epochs = 0  # that are over
        self._early: _EarlyDecay | None = None
        self._begun_early = clock.read()[1]  # asked to stop before: the time it is given says so
        self._after_epoch = 1.0  # seconds for log and checkpoint
        self._look_s = phase.looks * pace.step_s
        self._looked = begin
        self._spent_looking = 0.0
        self._now = begin

    @property
    def end(self) -> float:
        """When the last step must be over, seconds on the fold's clock."""
        if self._early is not None:
            return self._early.begin + self._early.length
        end = self._keeper.end(self.phase) - self._after_epoch
        # the last epoch ends with quick figures too, if they are due then
        return end - self._look_s * (self._look_s <= LOOK_SHARE * (end - self._looked))

    @property
    def cap(self) -> int:
        """The most steps: the settings' own schedule."""
        return self.phase.epochs * self.phase.iterations

    @property
    def progress(self) -> float:
        """Of the time, or of the settings' own schedule if that is over sooner; 0 to 1 and beyond."""
        length = max(self.end - self.begin, 1e-9)
        # a step that has begun is finished: half of it lies beyond, on average
        time = (self._now + self.step_s / 2 - self.begin) / length
        return max(time, self.done / self.cap)

    @property
    def left_s(self) -> float:
        """Seconds until this network is trained, as far as is known."""
        steps = (self.cap - self.done) * self.step_s
        return max(0.0, min(self.end - self._now, steps)) + self._after_epoch

    @property
    def steps_in_all(self) -> int:
        """See `Schedule`."""
        return self.done + max(0, round((self.left_s - self._after_epoch) / self.step_s))

    @property
    def length(self) -> str:
        """See `Schedule`."""
        left = self.steps_in_all - self.done
        return f"about {self._epochs + -(-left // self._epoch_steps())}"

    @property
    def remark(self) -> str:
        """See `Schedule`."""
        return f"over in {duration_text(self._keeper.over_in(self))}"

    def epochs(self, epoch: int, done: int) -> Iterator[int]:
        """See `Schedule`."""
        self.done, self._epochs = done, epoch
        self._now = self._clock.used()
        self._warm_up = min(MOST_WARM_UP, max(1, round(WARM_UP * self.steps_in_all)))
        # where the checkpoint was; but what was begun because somebody asked to stop is taken back
        self.decay = self._last_decay = max(0.0, min(self._last_decay, self._wanted()))
        self._advance()
        while self.decay < 1:
            yield epoch
            epoch += 1
            self._advance()

    def steps(self, epoch: int) -> Iterator[tuple[int, float]]:
        """See `Schedule`."""
        first, begin = self.done, self._now
        for _ in range(self._epoch_steps()):
            warm = min(1.0, (self.done + 1) / self._warm_up)
            self._last_decay = self.decay
            yield self.done, warm * (1 - sqrt(self.decay))
            self.done += 1
            self._advance()
            self._keeper.tick(self._now)
            if self.decay >= 1:
                break
        self._epochs = epoch + 1
        self.step_s = (self.step_s + (self._now - begin) / (self.done - first)) / 2

    def look(self, validate: Callable[[], Figures]) -> Figures:
        """See `Schedule`."""
        now = self._clock.used()
        self._spent_looking = 0.0
        if self._look_s > LOOK_SHARE * (now - self._looked):
            return {}
        figures = validate()
        self._looked = self._clock.used()
        self._look_s = self._spent_looking = self._looked - now
        return figures

    def finish_epoch(self, network: nn.Module) -> None:
        """See `Schedule`."""
        took = self._clock.used() - self._now - self._spent_looking
        self._after_epoch = max(self._after_epoch, took)
        self._keeper.finish_epoch(self, network)

    def _advance(self) -> None:
        """Read the clock and see how far the decay is: never back, never faster than in some steps."""
        self._now, stop = self._clock.read()
        if stop and self._early is None and not self._begun_early:
            self._early = _EarlyDecay(self._now, self._early_length(), self.decay)
            self._keeper.stopping(self, self._early.length)
        fastest = self._last_decay + 1 / self._least_decay()
        self.decay = max(self.decay, min(self._wanted(), fastest))
        if self.decay > 1 - 1e-9:
            self.decay = 1.0

    def _wanted(self) -> float:
        """How far the decay should be by now; below 0 before it begins."""
        if self._early is None:
            return (self.progress - (1 - DECAY)) / DECAY
        share = (self._now + self.step_s / 2 - self._early.begin) / self._early.length
        return self._early.position + (1 - self._early.position) * share

    def _least_decay(self) -> int:
        return min(LEAST_DECAY, max(1, round(DECAY * self.cap)))

    def _early_length(self) -> float:
        trained = EARLY_DECAY * (self._now - self.begin)
        wanted = min(LONGEST_EARLY_DECAY, trained, max(0.0, self.end - self._now))
        return max(wanted, self._least_decay() * self.step_s)

    def _epoch_steps(self) -> int:
        length = self.end - self.begin
        seconds = max(length / EPOCHS, min(length / 5, SHORT_EPOCH))
        return max(1, min(self.phase.iterations, int(seconds / self.step_s)))
