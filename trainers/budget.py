"""A fold in a given time: every network gets its share, and what comes after them is kept free.

Each network still to be trained gets the same share of the time that is left when it begins, and no
more than the settings' own schedule takes. What a phase without training takes is forecast where
it says how much it predicts; else some time is kept free, and what it leaves over, or takes beyond,
is the later networks'.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field
from torch import nn

from renalplan.durations import duration_text
from renalplan.errors import RenalplanError, TrainingError, UsageError
from renalplan.files import Record, read_record, write_json
from renalplan.trainers.clock import Clock
from renalplan.trainers.phase import Phase, TrainedNetwork
from renalplan.trainers.probe import machine_of, measure
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.timed import Pace, TimedSchedule

BUDGET = "budget.json"
PROBE_S, PROBE_SHARE = 120.0, 0.1
SURE_S = 8.0  # of probing each network before a budget is refused: a few steps at the start mislead
USEFUL_STEPS = 100  # of each network: fewer teach nothing
UNKNOWN_SHARE = 0.02  # of the budget, kept free for a phase that does not say what it takes
EARLY_SHARE = 0.1  # of its time, for a network that has not begun when somebody asks to stop
REHEARSE_AT = (
    0.6  # of the last network's time: late enough to be like the end, early enough to react
)
NOTE_EVERY_S = 10.0
log = logging.getLogger(__name__)


class Begun(Record):
    """A network whose training has begun.

    Attributes:
        at: When, seconds used by then.
        decay: How far the decay of its learning rate was in the checkpoint, 0 to 1.
    """

    at: float
    decay: float = 0.0


class BudgetRecord(Record):
    """budget.json: what a fold's time was spent on; a run after a kill goes on with what is left.

    Attributes:
        seconds: What the last run gave the fold.
        used: Seconds used so far.
        over: Whether it is trained and validated.
        begun: Of each network's phase.
        paces: Network's phase -> what the probe found.
    """

    version: Literal[1] = 1
    seconds: float
    used: float = Field(ge=0)
    over: bool = False
    begun: dict[str, Begun] = Field(default_factory=dict)
    paces: dict[str, Pace] = Field(default_factory=dict)


def read_budget(fold_folder: Path) -> BudgetRecord | None:
    """What a fold's earlier runs used, None if none had a budget.

    Raises:
        TrainingError: the file is damaged.
    """
    path = fold_folder / BUDGET
    return read_record(path, BudgetRecord, TrainingError) if path.is_file() else None


class Validation(Protocol):
    """Whoever validates the fold in the end, and can say how long that will take."""

    def foresee(self, window_s: float) -> float:
        """Seconds, if predicting one window takes `window_s`."""
        ...

    def rehearse(self, phase: str, network: nn.Module) -> float | None:
        """Seconds, found out with a case; None if that would take too long or fails.

        Args:
            phase: Which one is being trained; those before it are.
            network: Its network as it is now.
        """
        ...


class FoldBudget:
    """Divides a fold's time, see the module.

    Attributes:
        seconds: For the whole fold.
        clock: How much is used.
        validation_s: What validation will take, as far as is known.
    """

    def __init__(
        self,
        seconds: float,
        folder: Path,
        clock: Clock,
        *,
        workers: int | None = None,
        validation: Validation | None = None,
        probe: Callable[[TrainedNetwork, TrainingTask, float, int | None], Pace] = measure,
    ) -> None:
        """Take up what earlier runs left.

        Args:
            seconds: For the whole fold.
            folder: The fold's.
            clock: Counts from what earlier runs used.
            workers: Data workers, if somebody asked for a number.
            validation: None if no case is held out.
            probe: Measures a network, see `renalplan.trainers.probe.measure`.
        """
        self.seconds = seconds
        self.clock = clock
        self.validation_s = 0.0
        self._path = folder / BUDGET
        old = read_budget(folder) or BudgetRecord(seconds=seconds, used=0)
        self._new = not old.begun
        self._record = old.model_copy(update={"seconds": seconds, "over": False})
        self._workers = workers
        self._validation = validation
        self._probe = probe
        self._phases: list[Phase] = []
        self._later: list[Phase] = []  # after the one that is trained; asked for at every step
        self._windows: dict[str, int | None] = {}
        self._task: TrainingTask | None = None
        self._probed = self._rehearsed = self._stopped = False
        self._noted = 0.0

    def expect(self, phases: list[Phase], task: TrainingTask) -> None:
        """These will run, but those that are done.

        Args:
            phases: All, in order.
            task: The fold's.
        """
        self._phases, self._task = phases, task
        self.clock.stop.can_finish = not self._new
        self.note()

    def note(self, *, over: bool = False) -> None:
        """Write down how much is used."""
        self._noted = self.clock.used()
        self._save(used=self._noted, over=over)

    def schedule(self, phase: TrainedNetwork, task: TrainingTask) -> TimedSchedule:
        """How a network is trained that begins, or goes on, now.

        Raises:
            UsageError: the time that is left is too short for anything useful.
        """
        self._stopped = self.clock.read()[1]
        self._measure([phase] if self._probed else self._to_train(), task)
        first, self._probed = not self._probed, True
        self._later = self._after(phase)
        if first:
            self._foresee()
            self._require_enough(task)
        if phase.name not in self._record.begun:
            self._begin(phase, Begun(at=self.clock.used()))
        self.note()
        old, pace = self._record.begun[phase.name], self._record.paces[phase.name]
        schedule = TimedSchedule(phase, pace, self.clock, self, old.at, old.decay)
        self._announce(schedule, task)
        return schedule

    def end(self, phase: TrainedNetwork) -> float:
        """See `Keeper.end`."""
        begin = self._record.begun[phase.name].at
        after = self._later
        networks = 1 + sum(isinstance(p, TrainedNetwork) for p in after)
        left = self.seconds - begin - self.validation_s - self._forecast(after)
        share = max(0.0, left / networks)
        if self._stopped:
            least = USEFUL_STEPS * self._record.paces[phase.name].step_s
            share = min(share, max(least, EARLY_SHARE * share))
        return begin + share

    def over_in(self, schedule: TimedSchedule) -> float:
        """See `Keeper.over_in`."""
        after = self._later
        now = self.clock.used()
        if any(isinstance(p, TrainedNetwork) for p in after) and not self._stopped:
            return self.seconds - now
        return schedule.left_s + self._rest(after)

    def tick(self, seconds: float) -> None:
        """See `Keeper.tick`."""
        self.clock.stop.can_finish = True
        if seconds - self._noted > NOTE_EVERY_S:
            self.note()

    def finish_epoch(self, schedule: TimedSchedule, network: nn.Module) -> None:
        """See `Keeper.finish_epoch`; validation is rehearsed once, towards the end."""
        begun = self._record.begun[schedule.phase.name]
        self._begin(schedule.phase, Begun(at=begun.at, decay=schedule.decay))
        self.note()
        if self._validation is None or self._rehearsed or self._stopped:
            return
        more = any(isinstance(p, TrainedNetwork) for p in self._later)
        if more or schedule.progress < REHEARSE_AT:
            return
        self._rehearsed = True
        found = self._validation.rehearse(schedule.phase.name, network)
        if found is not None:
            self.validation_s = found

    def stopping(self, schedule: TimedSchedule, seconds: float) -> None:
        """See `Keeper.stopping`."""
        self._stopped = True
        log.warning(
            "asked to stop: %s is annealed for about %s and saved; with what comes then%s "
            "it is over in about %s.",
            schedule.phase.name,
            duration_text(seconds),
            "" if self._validation is None else " (validation, at last)",
            duration_text(seconds + self._rest(self._later)),
        )

    def _measure(
        self, phases: list[TrainedNetwork], task: TrainingTask, sure_s: float = 0.0
    ) -> None:
        """Measure those that are not yet, on this machine; only the first one must be possible.

        Args:
            phases: Of networks still to be trained.
            task: The fold's.
            sure_s: Measure also those that are, if that did not take so many seconds.
        """
        machine = machine_of(task, self._workers)
        seconds = min(PROBE_S, PROBE_SHARE * self.seconds) / max(1, len(self._to_train()))
        missing = [
            p
            for p in phases
            if seconds < sure_s
            or p.name not in self._record.paces
            or self._record.paces[p.name].machine != machine
        ]
        seconds = max(seconds, sure_s)
        for phase in missing:
            try:
                found = self._probe(phase, task, seconds, self._workers)
            except (RenalplanError, OSError):
                if phase is phases[0]:
                    raise
                continue  # it needs what an earlier phase will leave
            self._save(paces={**self._record.paces, phase.name: found})

    def _foresee(self) -> None:
        """How long validation will take, before anything is known of it but a window's time."""
        if self._validation is not None:
            windows = max(pace.window_s for pace in self._record.paces.values())
            self.validation_s = self._validation.foresee(windows)

    def _needed(self, networks: list[TrainedNetwork]) -> tuple[float, float, float]:
        """Seconds in all, of a step, and after training, if each network gets its fewest steps."""
        known = self._record.paces
        step_s = max(known[p.name].step_s for p in self._to_train() if p.name in known)
        rest = self._rest([p for p in self._later if p not in networks])
        return self.clock.used() + len(networks) * USEFUL_STEPS * step_s + rest, step_s, rest

    def _require_enough(self, task: TrainingTask) -> None:
        """For networks that have not begun; one that has is finished however little time is left."""
        networks = [p for p in self._to_train() if p.name not in self._record.begun]
        if not networks or self._needed(networks)[0] <= self.seconds:
            return
        self._measure(self._to_train(), task, sure_s=SURE_S)
        self._foresee()
        needed, step_s, rest = self._needed(networks)
        if needed <= self.seconds:
            return
        if self._new:
            self._path.unlink(missing_ok=True)  # the next budget is not charged for this
        what = "network" if len(networks) == 1 else f"{len(networks)} networks"
        held_out = f", validation {duration_text(rest)}" if self._validation else ""
        raise UsageError(
            f"--budget: fold {task.fold_name} has {duration_text(self.seconds)} and needs at least "
            f"{duration_text(needed * 1.05 + 1)}: {USEFUL_STEPS} steps of {step_s:.2g} s for its "
            f"{what}{held_out}, and what is used already. Give more time, train a smaller "
            "network, or begin when the machine is less busy."
        )

    def _announce(self, schedule: TimedSchedule, task: TrainingTask) -> None:
        """What was chosen, a line."""
        complete = schedule.steps_in_all >= schedule.cap
        log.info(
            "fold %s %s: %.2g s a step with %d data workers; %s epochs, %d steps%s, in %s; "
            "validation about %s; %s",
            task.fold_name,
            schedule.phase.name,
            schedule.step_s,
            schedule.workers,
            schedule.length,
            schedule.steps_in_all,
            " (all that the settings say)" if complete else "",
            duration_text(schedule.left_s),
            duration_text(self.validation_s),
            schedule.remark,
        )

    def _to_train(self) -> list[TrainedNetwork]:
        assert self._task is not None, "see expect"
        return [
            p for p in self._phases if isinstance(p, TrainedNetwork) and not p.is_done(self._task)
        ]

    def _after(self, phase: Phase) -> list[Phase]:
        """The phases that follow and are not done."""
        assert self._task is not None, "see expect"
        names = [p.name for p in self._phases]
        later = self._phases[names.index(phase.name) + 1 :]
        return [p for p in later if not p.is_done(self._task)]

    def _rest(self, after: list[Phase]) -> float:
        """Seconds for these phases and validation; networks are trained as after a stop."""
        networks = [p.name for p in after if isinstance(p, TrainedNetwork)]
        known = [pace.step_s for pace in self._record.paces.values()]
        steps = sum(
            self._record.paces[name].step_s if name in self._record.paces else max(known)
            for name in networks
        )
        return USEFUL_STEPS * steps + self._forecast(after) + self.validation_s

    def _forecast(self, phases: list[Phase]) -> float:
        """Seconds for those of them that train nothing."""
        assert self._task is not None, "see expect"
        window_s = max((p.window_s for p in self._record.paces.values()), default=0.0)
        total = 0.0
        for phase in phases:
            if not isinstance(phase, TrainedNetwork):
                if phase.name not in self._windows:
                    self._windows[phase.name] = phase.windows(self._task)
                windows = self._windows[phase.name]
                total += UNKNOWN_SHARE * self.seconds if windows is None else windows * window_s
        return total

    def _begin(self, phase: Phase, begun: Begun) -> None:
        self._save(begun={**self._record.begun, phase.name: begun})

    def _save(self, **values: object) -> None:
        self._record = self._record.model_copy(update=values)
        write_json(self._path, self._record)
