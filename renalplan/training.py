"""What `renalplan_train` does: checks first, then a fold (or all of them), then real validation."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renalplan.dataset import Case, Dataset
from renalplan.errors import DatasetError, UsageError
from renalplan.executors import open_executor
from renalplan.files import remove_leftovers
from renalplan.fold_validation import FoldValidation
from renalplan.locks import hold
from renalplan.model_folder import ModelFolder
from renalplan.postprocessing import POSTPROCESSING
from renalplan.started import started_world
from renalplan.together import run_together
from renalplan.training_budget import choose_budget, seconds_of, taking_back
from renalplan.training_checks import ReadyTraining, prepare_training
from renalplan.training_hardware import Precision, starts_several
from renalplan.workspace import Workspace

if TYPE_CHECKING:
    from renalplan.trainers.trainer import Trainer

DESCRIPTION = ("plan.json", "dataset.json", "trainer.json")
TURN_SECONDS = 60.0  # other folds of the model may begin, or end, at the same time
log = logging.getLogger(__name__)
OUR_OWN = ("fold", "progress")  # what a fold that is trained elsewhere is not told


@dataclass(frozen=True)
class Trained:
    """What a training command leaves: the model folder and mean Dice of held-out cases by fold.

    Attributes:
        reported: Whether this process is the one that reports: of several that train together, the
            others know no scores.
        stopped: The signal that asked to stop, if folds were left out for it.
    """

    model: Path
    folds: dict[str, dict[str, float]]
    reported: bool = True
    stopped: int | None = None


def train(
    task: str,
    fold: int | str,
    trainer: str = "UNet",
    *,
    settings: list[str] | None = None,
    plan_name: str | None = None,
    configuration: str | None = None,
    name: str | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    devices: int = 1,
    accumulate: int | None = None,
    deterministic: bool = False,
    workers: int | None = None,
    progress: bool = True,
    workspace: Workspace | None = None,
    restart: bool = False,
    dask: str | None = None,
    budget: str | None = None,
    since: float | None = None,
) -> Trained:
    """Train a fold, `all` cases, or the folds in turn (`cv`), and validate on the held-out cases.

    Args:
        task: Dataset folder, name or number.
        fold: 0 … 4, `all` or `cv`.
        trainer: A trainer's name, or `module:Class`.
        settings: `name=value` changes of its hyperparameters.
        plan_name: Which plan, if the dataset has several.
        configuration: Which of the plan's configurations; its default one if None.
        name: Of the model folder; by default the trainer's, with what is no default of the plan.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto is fp32 on the CPU, bf16 (or fp16) autocast on a GPU.
        devices: GPUs of this machine (processes on a CPU) that share every batch. Leave it out
            under torchrun and SLURM, which start the processes themselves.
        accumulate: In how many parts, one after the other, each device works on its share; None is
            one, and more if memory runs out.
        deterministic: Weights are the same twice, bit by bit, on a GPU too, as far as PyTorch can.
        workers: Processes that prepare batches; None takes all cores but one.
        progress: Show a progress bar.
        workspace: Where everything is.
        restart: Delete what this fold has, and begin anew.
        dask: Scheduler whose workers train, a fold each, on their devices; they see the same files.
        budget: Time for all of this, e.g. `6h`; Ctrl-C or SIGTERM, once, then finishes the fold early.
        since: When the budget began to run, `time.monotonic()`; now if None.

    Raises:
        UsageError: anything asked for that does not exist, or a fold that another run trains, before
            any work starts.
    """
    asked: dict[str, Any] = {
        "task": task,
        "fold": str(fold),
        "trainer": trainer,
        "settings": settings or [],
        "plan_name": plan_name,
        "configuration": configuration,
        "name": name,
        "device": device,
        "precision": precision,
        "accumulate": accumulate,
        "deterministic": deterministic,
        "workers": workers,
        "progress": progress,
        "workspace": workspace or Workspace.find(),
    }
    _require_one_way(budget, asked["settings"], dask, devices, deterministic)
    if dask is not None:
        return _train_elsewhere(dask, asked, restart)
    if starts_several(device, devices, accumulate):
        # what cannot work is refused before they are started
        with hold_folds(prepare_training(**asked, processes=devices)):
            pass
        return run_together(_train_here, devices, {"asked": asked, "restart": restart})
    return _train_here(asked, restart, budget, since)


def _require_one_way(
    budget: str | None,
    settings: list[str],
    dask: str | None,
    devices: int,
    deterministic: bool,
) -> None:
    """Refuse what the clock or a cluster cannot share.

    Raises:
        UsageError: two of a budget, a cluster and several devices, a budget that is to be the
            same twice, or that is none.
    """
    if budget is not None:
        seconds_of(budget, settings)
    if budget and deterministic:
        raise UsageError(
            "--deterministic: under a --budget the clock decides how many steps are trained, which is "
            "not the same twice; leave one of the two out."
        )
    if budget and dask:
        raise UsageError(
            "--budget is for the machine it is typed on; leave --dask out, or give each fold a budget "
            "on a machine of its own."
        )
    if budget and (devices > 1 or started_world() > 1):
        raise UsageError(
            "--budget is kept by one process; several that train together would read different "
            "clocks. Leave it out, or train on one device."
        )
    if dask and devices > 1:
        raise UsageError(
            f"--devices {devices}: with --dask each fold is trained by one worker, on one device; "
            "leave one of the two out."
        )


def _train_here(
    asked: dict[str, Any], restart: bool, budget: str | None = None, since: float | None = None
) -> Trained:
    """What `train` does in this process, which may be one of several that train together."""
    ready = prepare_training(**asked, processes=started_world())
    from renalplan.trainers import ranks  # PyTorch comes after what is refused without it

    opened = partial(_open_model, ready.trainers, asked["trainer"], restart)
    results: dict[str, dict[str, float]] = {}
    new = not ready.path.exists()
    with ExitStack() as stack:
        ranks.lead_alone(lambda: stack.enter_context(hold_folds(ready)))
        timed = choose_budget(budget, asked["settings"], ready.trainers, since, restart=restart)
        if timed and new:
            stack.enter_context(taking_back(ready.path, set(ready.trainers), DESCRIPTION))
        model = ranks.lead_alone(opened) or ModelFolder(ready.path)
        if timed:
            stack.enter_context(timed.stop.listening())
        for fold, running in ready.trainers.items():
            within = (running, model, ready.dataset, ready.cases)
            with timed.fold(*within, asked["workers"]) if timed else nullcontext():
                results[fold] = train_and_validate(*within)
            if timed and timed.stop.signal:
                break
        if ranks.leads() and any(results.values()):
            _gather(ready.path)
    stopped = timed.left_out(ready.trainers.keys() - results) if timed else None
    trained = Trained(ready.path, results, reported=ranks.leads(), stopped=stopped)
    ranks.part()
    return trained


@contextmanager
def hold_folds(ready: ReadyTraining) -> Iterator[None]:
    """Train these folds alone while the block runs; other folds of the model may be trained.

    Raises:
        UsageError: another run trains one of them.
    """
    with ExitStack() as stack:
        for fold in ready.trainers:
            what = f"fold {fold} of {ready.path} is being trained"
            stack.enter_context(hold(ready.path, f"fold_{fold}", what))
        yield


def _train_elsewhere(dask: str, asked: dict[str, Any], restart: bool) -> Trained:
    """Have the workers of a dask scheduler train, a fold each."""
    from renalplan.fold_jobs import train_folds

    theirs = {"device": "auto", "precision": "auto", "workers": 0}  # what is here says nothing
    ready = prepare_training(**asked | theirs, processes=1)
    choose_budget(None, asked["settings"], ready.trainers, None, restart=restart)
    task = next(iter(ready.trainers.values())).task
    seen = (ready.dataset.folder / "dataset.json", task.stores / "plan.json")
    with open_executor(
        None, dask, reads=seen, writes=ready.path, case_seconds=math.inf
    ) as executor:
        with hold_folds(ready):  # a fold's own process holds it while it trains
            _open_model(ready.trainers, asked["trainer"], restart)
        arguments = {name: value for name, value in asked.items() if name not in OUR_OWN} | {
            "task": str(ready.dataset.folder.absolute()),
            "workspace": str(asked["workspace"].root.absolute()),
            "configuration": task.configuration,
            "name": ready.path.name,
        }
        results = train_folds(list(ready.trainers), arguments, executor)
    if any(results.values()):
        _gather(ready.path)
    return Trained(ready.path, results)


def _open_model(trainers: dict[str, Trainer], name: str, restart: bool) -> ModelFolder:
    """The model folder of all these folds; to begin anew, they are deleted first.

    Its description is written here, once, before any fold is trained: folds that are trained at the
    same time only read it.

    Args:
        trainers: Of the folds.
        name: What they were called by.
        restart: Begin anew.
    """
    first = next(iter(trainers.values()))
    path = first.task.model.path
    with hold(path, "model", f"{path} is being described", patience=TURN_SECONDS):
        remove_leftovers(path, DESCRIPTION)
        return _describe(path, trainers, name, restart)


def _describe(path: Path, trainers: dict[str, Trainer], name: str, restart: bool) -> ModelFolder:
    """See `_open_model`."""
    from renalplan.trainers.trainer import open_or_create

    first = next(iter(trainers.values()))
    others = not trainers.keys() >= _folds_in(path)  # what they are described by must go on to hold
    model = open_or_create(path, first, name, anew=restart and not others)
    for trainer in trainers.values() if restart else ():
        shutil.rmtree(trainer.task.fold_folder, ignore_errors=True)
        (path / POSTPROCESSING).unlink(missing_ok=True)  # chosen by scores that are gone
    for trainer in trainers.values():
        open_or_create(path, trainer, name)
    return model


def _folds_in(path: Path) -> set[str]:
    return {p.name.removeprefix("fold_") for p in path.glob("fold_*")}


def _gather(path: Path) -> None:
    """One table and page of all folds that were scored, now or by another command; two at least."""
    from renalplan.evaluation.crossval import gather_folds
    from renalplan.evaluation.tables import PER_CASE

    try:
        with hold(path, "gathering", f"{path} is being summed up", patience=TURN_SECONDS):
            folds = [fold for fold in _folds_in(path) if fold.isdigit()]
            folders = {int(fold): path / f"fold_{fold}" / "validation" for fold in folds}
            scored = {f: folder for f, folder in folders.items() if (folder / PER_CASE).is_file()}
            if len(scored) >= 2:
                gather_folds(scored, path)
    except (DatasetError, UsageError) as problem:
        # another fold's table is no reason to fail this training
        log.warning("the folds' scores are not gathered: %s", problem)


def train_and_validate(
    trainer: Trainer, model: ModelFolder, dataset: Dataset, cases: dict[str, Case]
) -> dict[str, float]:
    """Run a fold's phases, then predict its held-out scans as any scan and score them.

    Where several processes train together the first one predicts; the others know no scores.

    Returns:
        Structure -> mean Dice; empty if nothing is held out, or nothing with labels.
    """
    from renalplan.trainers.ranks import lead_alone

    trainer.run()
    return lead_alone(FoldValidation(trainer, model, dataset, cases).run) or {}
