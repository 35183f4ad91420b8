"""The time a training command has, and what of it each of its folds gets."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from renalplan.durations import parse_duration
from renalplan.errors import UsageError

if TYPE_CHECKING:
    from renalplan.trainers.budget import FoldBudget, Validation
    from renalplan.trainers.stopping import StopRequest

SCHEDULES = ("schedule", "time_decay", "decay_rate")  # settings of learning rates over time
log = logging.getLogger(__name__)


class CommandBudget:
    """Divides a command's time evenly between the folds that are not over.

    What a fold leaves over is the later ones'. What earlier runs of the command used is counted, so
    a command that was killed goes on with the time that is left.

    Attributes:
        seconds: For all folds.
        stop: Whether somebody asked to stop.
    """

    def __init__(self, text: str, folders: list[Path], since: float) -> None:
        """Of a command line.

        Args:
            text: `6h`.
            folders: Of the folds.
            since: When the command began, `time.monotonic()`.

        Raises:
            UsageError: that is no length of time.
        """
        from renalplan.trainers.stopping import StopRequest

        self.seconds = parse_duration(text, "--budget")
        self.stop: StopRequest = StopRequest()
        self._folders = folders
        self._since = since

    def of(self, folder: Path, workers: int | None, validation: Validation | None) -> FoldBudget:
        """The budget of the fold that begins now, see `FoldBudget`."""
        from renalplan.trainers.budget import FoldBudget, read_budget
        from renalplan.trainers.clock import Clock

        known = {path: read_budget(path) for path in self._folders}
        over = [path for path in self._folders if _is_over(path)]
        spent = sum(record.used for path in over if (record := known[path]))
        open_folds = max(1, len(self._folders) - len(over) + (folder in over))
        old = known[folder]
        clock = Clock(old.used if old else 0.0, since=self._since, stop=self.stop)
        self.stop.can_finish = False
        return FoldBudget(
            (self.seconds - spent) / open_folds,
            folder,
            clock,
            workers=workers,
            validation=validation,
        )

    def finish(self, budget: FoldBudget) -> None:
        """A fold is trained and validated; the next one's time runs from here."""
        budget.note(over=True)
        self._since = time.monotonic()
        log.info(
            "fold budget: %.0f of %.0f s used, %.1f %%",
            budget.clock.used(),
            budget.seconds,
            100 * budget.clock.used() / budget.seconds,
        )


def _is_over(folder: Path) -> bool:
    """Whether a fold needs no more time."""
    from renalplan.model_folder import FINISHED
    from renalplan.trainers.budget import read_budget

    record = read_budget(folder)
    return (folder / FINISHED).is_file() if record is None else record.over


def check_settings(settings: list[str]) -> None:
    """Refuse settings that a budget would make idle.

    Raises:
        UsageError: the learning rate's schedule is set, which under a budget is warm-up, stable, decay.
    """
    for assignment in settings:
        if assignment.partition("=")[0].split(".")[-1] in SCHEDULES:
            raise UsageError(
                f"--set {assignment}: with --budget the learning rate is warmed up, stays, and decays "
                "in the last fifth of the time; leave this setting out, or the budget."
            )


def require_same_way(fold_folder: Path, *, budget: bool) -> None:
    """A network that has begun must go on as it began: steps are counted in different ways.

    Raises:
        UsageError: it began with a budget and there is none, or the other way round.
    """
    from renalplan.trainers.budget import BUDGET
    from renalplan.trainers.checkpoint import CHECKPOINT

    begun = sorted(fold_folder.glob(f"*/{CHECKPOINT}"))
    if not begun or (fold_folder / BUDGET).is_file() == budget:
        return
    one, other = ("without", "leave --budget out") if budget else ("with", "give --budget again")
    raise UsageError(
        f"{begun[0].parent} was begun {one} a budget; {other} to go on with it, or begin anew with "
        "--restart."
    )
