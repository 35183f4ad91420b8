"""Warm-up, stable, decay on a clock that the test moves: over in time, and annealed whatever happens."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import pytest
from torch import nn

from renalplan.trainers.clock import Clock
from renalplan.trainers.phase import TrainedNetwork
from renalplan.trainers.timed import Pace, TimedSchedule


@dataclass
class Time:
    """A clock that stands still until it is moved."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Length:
    """What a schedule asks of its phase."""

    epochs: int = 1000
    iterations: int = 250
    looks: int = 0


@dataclass
class Until:
    """A keeper that gives one network the time to a moment."""

    moment: float
    stopped: list[float] = field(default_factory=list)

    def end(self, phase: TrainedNetwork) -> float:
        return self.moment

    def over_in(self, schedule: TimedSchedule) -> float:
        return schedule.left_s

    def tick(self, seconds: float) -> None:
        """Nobody counts."""

    def finish_epoch(self, schedule: TimedSchedule, network: nn.Module) -> None:
        """Nobody rehearses."""

    def stopping(self, schedule: TimedSchedule, seconds: float) -> None:
        self.stopped.append(seconds)


@dataclass(frozen=True)
class Step:
    """One step that was trained: when it began, how fast it learnt."""

    at: float
    rate: float


@dataclass
class Bench:
    """A schedule and its clock; `train` does what the loop does.

    Attributes:
        promised_s: What the probe says a step takes.
        until: When training must be over.
        phase: The settings' schedule.
        writing_s: What log and checkpoint take after each epoch.
        looking_s: What quick figures take.
    """

    promised_s: float = 1.0
    until: float = 1000.0
    begin: float = 0.0
    phase: Length = field(default_factory=Length)
    writing_s: float = 0.5
    looking_s: float = 0.0

    def __post_init__(self) -> None:
        self.time = Time(self.begin)
        self.clock = Clock(now=self.time, since=0.0)
        self.keeper = Until(self.until)
        self.steps: list[Step] = []
        self.epochs: list[int] = []
        self.looks = 0
        self.restart()

    def restart(self, decay: float = 0.0) -> None:
        pace = Pace(machine="-", workers=3, step_s=self.promised_s, window_s=0.1)
        phase = cast(TrainedNetwork, self.phase)
        self.schedule = TimedSchedule(phase, pace, self.clock, self.keeper, self.begin, decay)

    def train(
        self,
        step_s: Callable[[float], float],
        *,
        before: Callable[[float], None] = lambda _: None,
        epoch: int = 0,
        done: int = 0,
        epochs: int = 10**9,
    ) -> None:
        for number in self.schedule.epochs(epoch, done):
            self.epochs.append(number)
            before_epoch = len(self.steps)
            for _, rate in self.schedule.steps(number):
                self.steps.append(Step(self.time.seconds, rate))
                before(self.time.seconds)
                self.time.seconds += step_s(self.time.seconds)
            assert len(self.steps) > before_epoch
            self.schedule.look(self._look)
            self.time.seconds += self.writing_s
            self.schedule.finish_epoch(nn.Identity())
            if len(self.epochs) == epochs:
                return

    def _look(self) -> dict[str, float]:
        self.looks += 1
        self.time.seconds += self.looking_s
        return {"dice": 1.0}

    @property
    def rates(self) -> list[float]:
        return [step.rate for step in self.steps]

    def stop(self, at: float) -> Callable[[float], None]:
        def press(now: float) -> None:
            if now >= at:
                self.clock.stop.signal = signal.SIGINT

        return press


def falls(rates: list[float]) -> bool:
    return all(later <= earlier for earlier, later in pairwise(rates))


def test_the_rate_rises_stays_and_falls_to_nothing_in_time() -> None:
    bench = Bench()
    bench.train(lambda _: 1.0)
    top = bench.rates.index(1.0)
    assert bench.rates[:top] == pytest.approx([(n + 1) / (top + 1) for n in range(top)])
    assert top + 1 == pytest.approx(0.02 * len(bench.steps), abs=2)
    fall = next(n for n in range(top, len(bench.rates)) if bench.rates[n] < 1)
    assert bench.steps[fall].at == pytest.approx(800, abs=5)
    assert falls(bench.rates[fall:])
    assert bench.rates[-1] < 0.05
    assert 995 <= bench.time.seconds <= 1001


@pytest.mark.parametrize("slower", [0.5, 2.0, 5.0])
def test_a_machine_of_another_speed_than_promised_ends_in_time_too(slower: float) -> None:
    bench = Bench()
    bench.train(lambda _: slower)
    first = next(n for n in range(50, len(bench.rates)) if bench.rates[n] < 1)
    assert bench.steps[first].at == pytest.approx(800, abs=2 * slower + 3)
    assert first * slower <= 800  # on a slower one the decay begins after fewer steps
    assert bench.rates[-1] < 0.2
    assert 990 - slower <= bench.time.seconds <= 1000 + slower


def test_a_machine_that_becomes_slow_in_the_decay_ends_in_time_too() -> None:
    bench = Bench()
    bench.train(lambda now: 1.0 if now < 850 else 4.0)
    assert 990 <= bench.time.seconds <= 1005
    assert bench.rates[-1] < 0.2


def test_a_clock_that_jumps_beyond_the_end_still_leaves_an_annealed_network() -> None:
    bench = Bench()
    bench.train(lambda now: 5000.0 if 300 <= now < 400 else 1.0)
    after = [step.rate for step in bench.steps if step.at > 5000]
    assert len(after) in (19, 20)
    assert after[0] > 0.7
    assert falls(after)
    assert after[-1] < 0.05


def test_it_never_trains_more_than_the_settings_say() -> None:
    bench = Bench(phase=Length(epochs=4, iterations=50))
    bench.train(lambda _: 1.0)
    assert len(bench.steps) == 200
    assert bench.rates[159:162] == pytest.approx([1, 1, 1 - (1 / 40) ** 0.5])
    assert bench.rates[-1] < 0.05


def test_a_schedule_of_a_single_step_is_one() -> None:
    bench = Bench(phase=Length(epochs=1, iterations=1))
    bench.train(lambda _: 1.0)
    assert bench.rates == [1.0]


@pytest.mark.parametrize(("at", "length"), [(100, 20), (600, 30)])
def test_asked_to_stop_it_decays_at_once_for_as_long_as_it_says(at: float, length: float) -> None:
    bench = Bench()
    bench.train(lambda _: 1.0, before=bench.stop(at))
    assert bench.keeper.stopped == pytest.approx([length], abs=1)
    assert bench.time.seconds == pytest.approx(at + length, abs=4)
    after = [step.rate for step in bench.steps if step.at > at]
    assert 19 <= len(after) <= length + 1
    assert after[0] > 0.7
    assert falls(after)
    assert after[-1] < 0.2


def test_asked_to_stop_in_the_decay_it_goes_on_from_there() -> None:
    bench = Bench()
    bench.train(lambda _: 1.0, before=bench.stop(900))
    at = next(n for n, step in enumerate(bench.steps) if step.at >= 900)
    assert bench.rates[at + 1] == pytest.approx(bench.rates[at], abs=0.03)
    assert falls(bench.rates[at:])
    assert bench.rates[-1] < 0.1
    assert bench.time.seconds == pytest.approx(945, abs=5)


def test_a_stop_near_the_end_does_not_make_it_longer() -> None:
    bench = Bench()
    bench.train(lambda _: 1.0, before=bench.stop(990))
    assert bench.time.seconds <= 1012  # twenty steps at most


def test_a_network_that_begins_after_the_stop_has_the_time_it_is_given() -> None:
    bench = Bench(until=200)
    bench.clock.stop.signal = signal.SIGTERM
    bench.restart()
    bench.train(lambda _: 1.0)
    assert bench.keeper.stopped == []
    assert bench.time.seconds == pytest.approx(200, abs=3)


def test_a_run_after_a_kill_goes_on_where_the_clock_is() -> None:
    whole, killed = Bench(), Bench()
    whole.train(lambda _: 1.0)
    killed.train(lambda _: 1.0, epochs=44)
    killed.restart(killed.schedule.decay)
    killed.train(lambda _: 1.0, epoch=44, done=len(killed.steps))
    assert killed.epochs == list(range(len(killed.epochs)))
    assert killed.time.seconds == pytest.approx(whole.time.seconds, abs=3)
    assert killed.rates == pytest.approx(whole.rates, abs=0.1)


def test_a_run_with_no_time_left_only_anneals() -> None:
    bench = Bench()
    bench.time.seconds = 1200
    bench.train(lambda _: 1.0, epoch=10, done=300)
    assert bench.epochs[0] == 10
    assert len(bench.steps) in (19, 20)
    assert falls(bench.rates)


def test_a_decay_that_was_asked_for_is_taken_back_by_the_next_run() -> None:
    bench = Bench()
    bench.train(lambda _: 1.0, epochs=10)
    bench.restart(decay=0.7)
    bench.train(lambda _: 1.0, epoch=10, done=len(bench.steps), epochs=11)
    assert bench.rates[-1] == 1.0


def test_epochs_are_many_in_a_long_training_and_not_tiny_in_a_short_one() -> None:
    long = Bench(until=20000.0)
    long.train(lambda _: 1.0)
    assert 75 <= len(long.epochs) <= 85  # 250 steps each, as the settings say
    middle = Bench(until=5000.0)
    middle.train(lambda _: 1.0)
    assert 45 <= len(middle.epochs) <= 52
    short = Bench(until=30.0, promised_s=0.1, writing_s=0.2)
    short.train(lambda _: 0.1)
    assert 5 <= len(short.epochs) <= 6


def test_quick_figures_take_a_tenth_of_the_time_at_most() -> None:
    cheap = Bench(looking_s=0.5, phase=Length(looks=1))
    cheap.train(lambda _: 1.0)
    assert cheap.looks == len(cheap.epochs)
    dear = Bench(looking_s=30.0, phase=Length(looks=30))
    dear.train(lambda _: 1.0)
    assert 2 <= dear.looks <= 3
    assert dear.time.seconds <= 1002
    never = Bench(looking_s=300.0, phase=Length(looks=300))
    never.train(lambda _: 1.0)
    assert never.looks == 0


def test_the_user_is_told_how_long_it_will_be() -> None:
    bench = Bench(phase=Length(epochs=1000, iterations=20))
    assert bench.schedule.steps_in_all == pytest.approx(1000, abs=2)
    assert bench.schedule.length == "about 53"
    assert bench.schedule.remark == "over in 16m 40s"
    assert bench.schedule.workers == 3
    bench.train(lambda _: 0.5, epochs=30)
    said = int(bench.schedule.length.removeprefix("about "))
    bench.train(lambda _: 0.5, epoch=30, done=len(bench.steps))
    assert len(bench.epochs) == pytest.approx(said, abs=3)
