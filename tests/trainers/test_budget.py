"""A fold's time: who gets how much of it, what is kept free, what a run after a kill finds."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from torch import nn

from renalplan.errors import TrainingError, UsageError
from renalplan.trainers.budget import BUDGET, FoldBudget, read_budget
from renalplan.trainers.clock import Clock
from renalplan.trainers.phase import ComputePhase, FixedNetwork, Phase, TrainedNetwork
from renalplan.trainers.supervised import SupervisedSettings
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.timed import Pace
from renalplan.trainers.unet import UNet

Make = Callable[..., TrainingTask]


@dataclass
class Fold:
    """A budget on a clock that the test moves, with a probe that only says what it is told.

    Attributes:
        task: Of the fold.
        seconds: The budget.
        step_s: What the probe finds.
        possible: Phases that the probe can measure; None are all.
    """

    task: TrainingTask
    seconds: float = 1000.0
    step_s: float = 0.1
    possible: set[str] | None = None
    now: float = 0.0
    before: float = 0.0
    validation: Validated | None = None
    probed: list[tuple[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        clock = Clock(self.before, now=lambda: self.now)
        folder = self.task.fold_folder
        self.budget = FoldBudget(
            self.seconds, folder, clock, validation=self.validation, probe=self.probe
        )

    def probe(
        self, phase: TrainedNetwork, task: TrainingTask, seconds: float, workers: int | None
    ) -> Pace:
        if self.possible is not None and phase.name not in self.possible:
            raise TrainingError("what it needs is not there")
        self.probed.append((phase.name, seconds))
        machine = f"cpu, {len(__import__('os').sched_getaffinity(0))} cores"
        return Pace(machine=machine, workers=1, step_s=self.step_s, window_s=0.01)

    def phases(self, configuration: str = "locate_fine") -> list[TrainedNetwork]:
        every = UNet(self.task, SupervisedSettings()).phases()
        self.budget.expect(every, self.task)
        return [p for p in every if isinstance(p, TrainedNetwork)]

    def train(self, phase: TrainedNetwork) -> float:
        """Let a network have its time; returns when it ended."""
        self.now += self.budget.schedule(phase, self.task).end - self.budget.clock.used()
        network = FixedNetwork(phase.name, phase.network)
        network.run(self.task)
        return self.now


@dataclass
class Validated:
    """Validation that takes as long as it says."""

    foreseen: float = 100.0
    rehearsed: float | None = 100.0
    asked: list[str] = field(default_factory=list)

    def foresee(self, window_s: float) -> float:
        return self.foreseen

    def rehearse(self, phase: str, network: nn.Module) -> float | None:
        self.asked.append(phase)
        return self.rehearsed


def test_every_network_gets_the_same_time_and_validation_what_it_needs(make_task: Make) -> None:
    fold = Fold(make_task("locate_fine"), now=0.0, validation=Validated(100))
    locate, fine = fold.phases()
    fold.now = 20.0  # the probe took so long
    assert fold.train(locate) == pytest.approx(20 + 440, abs=8)
    assert fold.train(fine) == pytest.approx(900, abs=8)


def test_a_network_that_takes_less_than_its_share_leaves_the_rest(make_task: Make) -> None:
    fold = Fold(make_task("locate_fine"))
    locate, fine = fold.phases()
    fold.budget.schedule(locate, fold.task)
    FixedNetwork(locate.name, locate.network).run(fold.task)
    fold.now = 100.0
    assert fold.train(fine) == pytest.approx(1000, abs=8)


def test_time_is_kept_free_for_phases_that_predict(make_task: Make) -> None:
    fold = Fold(make_task("locate_fine"))
    locate, fine = fold.phases()
    plain = fold.budget.schedule(locate, fold.task).end
    known = ComputePhase("between", lambda task, folder: None, lambda task: 20000)
    unknown = ComputePhase("also", lambda task, folder: None)
    fold.budget.expect([locate, known, unknown, fine], fold.task)
    expected = (20000 * 0.01 + 0.02 * 1000) / 2
    assert plain - fold.budget.schedule(locate, fold.task).end == pytest.approx(expected)


def test_a_cascade_says_how_much_it_predicts(make_task: Make) -> None:
    task = make_task("cascade")
    phases: list[Phase] = UNet(task, SupervisedSettings()).phases()
    found = {phase.name: phase.windows(task) for phase in phases}
    # three cases of 10 x 12 x 11 voxels in windows of 8 x 8 x 8, half overlapping
    assert found == {"lowres": None, "before_fullres": 3 * 2 * 2 * 2, "fullres": None}


def test_all_networks_are_probed_at_first_in_a_tenth_of_the_time(make_task: Make) -> None:
    fold = Fold(make_task("locate_fine"))
    fold.train(fold.phases()[0])
    assert fold.probed == [("locate", 50.0), ("fine", 50.0)]
    long = Fold(make_task("whole", fold_name="1"), seconds=1e6)
    long.train(long.phases()[0])
    assert long.probed == [("whole", 120.0)]


def test_a_network_that_cannot_be_probed_yet_is_probed_when_it_begins(make_task: Make) -> None:
    fold = Fold(make_task("locate_fine"), possible={"locate"})
    locate, fine = fold.phases()
    fold.train(locate)
    assert [name for name, _ in fold.probed] == ["locate"]
    with pytest.raises(TrainingError, match="what it needs is not there"):
        fold.budget.schedule(fine, fold.task)
    fold.possible = None
    fold.train(fine)
    assert [name for name, _ in fold.probed] == ["locate", "fine"]


def test_too_little_time_is_refused_with_what_it_would_take(make_task: Make) -> None:
    fold = Fold(make_task("locate_fine"), seconds=60, step_s=1.0, validation=Validated(30))
    locate, _ = fold.phases()
    fold.now = 5.0
    # 5 s used, 2 x 100 steps of 1 s, 30 s: 235 s, and a little
    with pytest.raises(UsageError, match=r"fold 0 has 1m 00s and needs at least 4m 08s: .*30s"):
        fold.budget.schedule(locate, fold.task)
    assert not (fold.task.fold_folder / BUDGET).exists()
    # three seconds each are little to judge by: it was looked at again, for longer, before it was refused
    assert fold.probed == [("locate", 3.0), ("fine", 3.0), ("locate", 8.0), ("fine", 8.0)]
    enough = Fold(make_task("locate_fine"), seconds=248, step_s=1.0, validation=Validated(30))
    assert enough.budget.schedule(enough.phases()[0], enough.task).steps_in_all > 100


def test_a_second_look_may_find_enough_time(make_task: Make) -> None:
    fold = Fold(make_task("whole"), seconds=30, step_s=1.0)
    whole = fold.phases()[0]
    slow = fold.probe

    def warms_up(*arguments: object) -> Pace:
        found = slow(*arguments)  # type: ignore[arg-type]
        fold.step_s = 0.1
        return found

    fold.budget._probe = warms_up
    assert fold.budget.schedule(whole, fold.task).step_s == 0.1
    assert [seconds for _, seconds in fold.probed] == [3.0, 8.0]


def test_a_run_after_a_kill_goes_on_with_what_is_left(make_task: Make) -> None:
    task = make_task("locate_fine")
    fold = Fold(task, seconds=1000)
    fold.now = 10.0
    locate, _ = fold.phases()
    first = fold.budget.schedule(locate, task)
    fold.now = 300.0
    first.decay = 0.25
    fold.budget.finish_epoch(first, nn.Identity())
    record = read_budget(task.fold_folder)
    assert record is not None
    assert (record.used, record.begun["locate"].at, record.begun["locate"].decay) == (300, 10, 0.25)

    again = Fold(task, seconds=1000, before=record.used, now=7e6)
    locate, fine = again.phases()
    second = again.budget.schedule(locate, task)
    assert again.probed == []
    assert (second.begin, second.end) == (first.begin, first.end)
    again.train(locate)
    assert again.train(fine) == pytest.approx(7e6 + 700, abs=8)


def test_more_time_may_be_given_later(make_task: Make) -> None:
    task = make_task("whole")
    fold = Fold(task, seconds=100)
    fold.now = 90.0
    short = fold.budget.schedule(fold.phases()[0], task).end
    longer = Fold(task, seconds=500, before=90.0)
    end = longer.budget.schedule(longer.phases()[0], task).end
    assert end == pytest.approx(short + 400, abs=8)


def test_a_last_network_that_has_begun_is_finished_however_little_is_left(make_task: Make) -> None:
    task = make_task("whole")
    fold = Fold(task, seconds=100)
    fold.budget.schedule(fold.phases()[0], task)
    late = Fold(task, seconds=100, before=99.9, step_s=1.0)
    late.budget.schedule(late.phases()[0], task)
    two = Fold(make_task("locate_fine"), seconds=100, before=99.9)
    with pytest.raises(UsageError, match="needs at least"):
        two.budget.schedule(two.phases()[0], two.task)


def test_a_damaged_record_is_named(make_task: Make) -> None:
    task = make_task("whole")
    task.fold_folder.mkdir(parents=True)
    (task.fold_folder / BUDGET).write_text('{"seconds": "many"}')
    with pytest.raises(TrainingError, match=r"budget\.json: seconds"):
        Fold(task)


def test_validation_is_rehearsed_once_towards_the_end_of_the_last_network(make_task: Make) -> None:
    validation = Validated(100, rehearsed=300)
    fold = Fold(make_task("locate_fine"), validation=validation)
    locate, fine = fold.phases()
    for phase in (locate, fine):
        schedule = fold.budget.schedule(phase, fold.task)
        assert schedule.end == pytest.approx(450 if phase is locate else 900, abs=8)
        for share in (0.3, 0.7, 0.8):
            fold.now = schedule.begin + share * (schedule.end - schedule.begin)
            schedule._now = fold.now
            fold.budget.finish_epoch(schedule, nn.Identity())
        if phase is locate:
            assert validation.asked == []
        fold.now = schedule.end
        FixedNetwork(phase.name, phase.network).run(fold.task)
    assert validation.asked == ["fine"]
    assert schedule.end == pytest.approx(700, abs=8)


def test_a_rehearsal_that_fails_changes_nothing(make_task: Make) -> None:
    validation = Validated(100, rehearsed=None)
    fold = Fold(make_task("whole"), validation=validation)
    schedule = fold.budget.schedule(fold.phases()[0], fold.task)
    end = schedule.end
    fold.now = schedule._now = 800.0
    fold.budget.finish_epoch(schedule, nn.Identity())
    assert (validation.asked, schedule.end) == (["whole"], end)


def test_asked_to_stop_later_networks_are_short_but_not_nothing(make_task: Make) -> None:
    fold = Fold(make_task("locate_fine"), validation=Validated(100))
    locate, fine = fold.phases()
    schedule = fold.budget.schedule(locate, fold.task)
    fold.now = 200.0
    fold.budget.clock.stop.signal = signal.SIGINT
    fold.budget.stopping(schedule, 20)
    # 100 steps of fine, validation
    assert fold.budget.over_in(schedule) == pytest.approx(schedule.left_s + 10 + 100, abs=1)
    FixedNetwork(locate.name, locate.network).run(fold.task)
    share = 0.1 * (900 - 200)
    assert fold.budget.schedule(fine, fold.task).end == pytest.approx(200 + share, abs=8)


def test_the_record_is_written_while_it_trains(make_task: Make) -> None:
    fold = Fold(make_task("whole"))
    fold.budget.schedule(fold.phases()[0], fold.task)
    for fold.now in (5.0, 11.0, 15.0):
        fold.budget.tick(fold.now)
    record = read_budget(fold.task.fold_folder)
    assert record is not None
    assert (record.used, record.over) == (11.0, False)
    fold.budget.note(over=True)
    record = read_budget(fold.task.fold_folder)
    assert record is not None
    assert (record.used, record.over) == (15.0, True)


def test_without_a_budget_there_is_no_record(make_task: Make, tmp_path: Path) -> None:
    assert read_budget(tmp_path) is None
    task = make_task("whole")
    UNet(task, SupervisedSettings(epochs=1, iterations=1, validation_iterations=0)).run()
    assert read_budget(task.fold_folder) is None
