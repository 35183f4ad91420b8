"""The time a training command has, and what of it each of its folds gets."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from renalplan.dataset import Case, Dataset
from renalplan.durations import duration_text, parse_duration
from renalplan.errors import UsageError
from renalplan.fold_validation import FoldValidation
from renalplan.model_folder import FINISHED, WEIGHTS, ModelFolder

if TYPE_CHECKING:
    from renalplan.trainers.stopping import StopRequest
    from renalplan.trainers.trainer import Trainer

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

    def __init__(
        self, text: str, settings: list[str], trainers: dict[str, Trainer], since: float | None
    ) -> None:
        """Of a command line.

        Args:
            text: `6h`.
            settings: `name=value` changes of the trainer's.
            trainers: Of the folds.
            since: When the command began, `time.monotonic()`; now if None.

        Raises:
            UsageError: that is no length of time, or a setting would be idle.
        """
        from renalplan.trainers.stopping import StopRequest

        self.seconds = seconds_of(text, settings)
        self.stop: StopRequest = StopRequest()
        self._folders = [trainer.task.fold_folder for trainer in trainers.values()]
        self._since = time.monotonic() if since is None else since

    @contextmanager
    def fold(
        self,
        trainer: Trainer,
        model: ModelFolder,
        dataset: Dataset,
        cases: dict[str, Case],
        workers: int | None,
    ) -> Iterator[None]:
        """Give a trainer its fold's share of the time, while the block trains and validates it.

        A fold that is over needs none.

        Args:
            trainer: Of the fold that begins now.
            model: Its model folder.
            dataset: With the scans and their labels.
            cases: Case id -> case.
            workers: Data workers, if somebody asked for a number.
        """
        from renalplan.trainers.budget import FoldBudget, read_budget
        from renalplan.trainers.clock import Clock

        folder = trainer.task.fold_folder
        if _is_over(folder):
            log.info(
                "fold %s is finished, and more time does not change it; --restart trains it anew.",
                trainer.task.fold_name,
            )
            yield
            return
        known = {path: read_budget(path) for path in self._folders}
        over = [path for path in self._folders if path != folder and _is_over(path)]
        spent = sum(record.used for path in over if (record := known[path]))
        old = known[folder]
        self.stop.can_finish = False
        validation = FoldValidation(trainer, model, dataset, cases)
        budget = FoldBudget(
            (self.seconds - spent) / (len(self._folders) - len(over)),
            folder,
            Clock(old.used if old else 0.0, since=self._since, stop=self.stop),
            workers=workers,
            validation=validation if validation.judged else None,
        )
        trainer.task = replace(trainer.task, budget=budget)
        yield
        budget.note(over=True)
        self._since = time.monotonic()  # the next fold's time runs from here
        used = budget.clock.used()
        log.info(
            "fold %s: %s of %s used",
            trainer.task.fold_name,
            duration_text(used),
            duration_text(budget.seconds),
        )

    def left_out(self, folds: Set[str]) -> int | None:
        """The signal for which these folds were not begun; None if there are none."""
        if not folds:
            return None
        left = ", ".join(sorted(folds))
        log.warning("stopped early: not trained: folds %s; the same command continues.", left)
        return self.stop.signal


def seconds_of(text: str, settings: list[str]) -> float:
    """The length of a budget.

    Raises:
        UsageError: that is no length of time, or a setting would be idle.
    """
    check_settings(settings)
    return parse_duration(text, "--budget")


def _is_over(folder: Path) -> bool:
    """Whether a fold needs no more time."""
    from renalplan.trainers.budget import read_budget

    record = read_budget(folder)
    return (folder / FINISHED).is_file() if record is None else record.over


def choose_budget(
    text: str | None,
    settings: list[str],
    trainers: dict[str, Trainer],
    since: float | None,
    *,
    restart: bool,
) -> CommandBudget | None:
    """The budget that a command line asks for, None if it asks for none.

    Raises:
        UsageError: see `CommandBudget`, `require_same_way`.
    """
    budget = None if text is None else CommandBudget(text, settings, trainers, since)
    if not restart:
        folders = [trainer.task.fold_folder for trainer in trainers.values()]
        require_same_way(folders, budget=budget is not None)
    return budget


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


def require_same_way(folders: list[Path], *, budget: bool) -> None:
    """A network that has begun must go on as it began: steps are counted in different ways.

    Args:
        folders: Of the folds.
        budget: Whether there is one.

    Raises:
        UsageError: it began with a budget and there is none, or the other way round.
    """
    from renalplan.trainers.budget import BUDGET
    from renalplan.trainers.checkpoint import CHECKPOINT

    for folder in folders:
        begun = sorted(folder.glob(f"*/{CHECKPOINT}"))
        if not begun or (folder / BUDGET).is_file() == budget:
            continue
        how, advice = "with", "give --budget again"
        if budget:
            how, advice = "without", "leave --budget out"
        raise UsageError(
            f"{begun[0].parent} was begun {how} a budget; {advice} to go on with it, or begin anew "
            "with --restart."
        )


@contextmanager
def taking_back(model: Path, folds: Set[str], description: tuple[str, ...]) -> Iterator[None]:
    """Leave nothing of a new model whose budget is refused: that is known after some steps only.

    Args:
        model: Its folder, which was not there before.
        folds: Held by this process.
        description: Files of the model that belong to no fold.
    """
    from renalplan.trainers.checkpoint import CHECKPOINT

    try:
        yield
    except UsageError:
        ours = {f"fold_{fold}" for fold in folds}
        held = {path.name[1:].removesuffix(".lock") for path in model.glob(".fold_*.lock")}
        begun = any(model.rglob(CHECKPOINT)) or any(model.rglob(WEIGHTS))
        if not begun and held | {path.name for path in model.glob("fold_*")} <= ours:
            for name in ours:
                shutil.rmtree(model / name, ignore_errors=True)
            for name in description:
                (model / name).unlink(missing_ok=True)
        raise
